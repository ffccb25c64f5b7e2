"""The aging score and the split: what they claim, on made-up skin."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from agesdk.errors import UsageError
from training.scores import (
    aging_scores,
    fit_wrinkle_index,
    load_indices,
    percentile_rank,
    ridge_features,
    save_indices,
)
from training.splits import person_of, split_of

SKIN = np.ones((128, 128), np.float32)


def lines(depth: float, brightness: float = 1.0, step: int = 9) -> np.ndarray:
    """Skin with dark horizontal lines of a relative depth."""
    crop = np.full((128, 128, 3), (190.0, 150.0, 130.0)) * brightness
    crop[4::step] *= 1.0 - depth
    return np.rint(crop).astype(np.uint8)


def test_deeper_lines_have_more_ridge_energy_and_horizontal_ones_are_horizontal() -> None:
    flat, shallow, deep = (ridge_features(lines(depth), SKIN) for depth in (0.0, 0.05, 0.15))
    assert (deep[:2] > shallow[:2]).all() and (shallow[:2] > flat[:2]).all()
    assert deep[1] > deep[2] + 2.0  # horizontal against vertical, log energies
    turned = ridge_features(np.ascontiguousarray(lines(0.15).transpose(1, 0, 2)), SKIN)
    assert turned[2] == pytest.approx(deep[1], abs=0.05)


def test_the_features_hardly_depend_on_skin_tone() -> None:
    light, dark = ridge_features(lines(0.12), SKIN), ridge_features(lines(0.12, 0.5), SKIN)
    assert abs(light[1] - dark[1]) < 0.25


def test_what_lies_outside_the_mask_does_not_count() -> None:
    covered = lines(0.0)
    covered[:, :40] = 20
    mask = SKIN.copy()
    mask[:, :48] = 0.0
    np.testing.assert_allclose(
        ridge_features(covered, mask)[:2], ridge_features(lines(0.0), SKIN)[:2], atol=0.3
    )


def test_the_index_finds_age_and_leaves_out_the_camera() -> None:
    rng = np.random.default_rng(0)
    ages = rng.uniform(15, 80, 400)
    sources = ["sharp" if i % 2 else "soft" for i in range(400)]
    features = rng.normal(0, 0.3, (400, 12))
    features[:, 1] += ages / 20 + np.array([2.0 if s == "sharp" else 0.0 for s in sources])
    index, values = fit_wrinkle_index("forehead", features, ages, sources, np.full(400, 512.0))
    assert spearmanr(values, ages).statistic > 0.9 and min(index.weights) >= 0.0
    sharp = np.array([s == "sharp" for s in sources])
    assert abs(values[sharp].mean() - values[~sharp].mean()) < 0.15


@pytest.mark.parametrize(
    "ages, slope, why",
    [
        ([3.0, 5.0, 8.0, 11.0], 1.0, "1 different"),
        ([np.nan] * 4, 1.0, "0 different"),
        ([20.0, 30.0, 40.0, 50.0], -1.0, "no ridge feature grows"),
    ],
)
def test_where_nothing_grows_with_age_no_index_is_made(ages: list[float], slope: float, why: str) -> None:
    features = slope * np.arange(4.0)[:, None] * np.ones(12)
    with pytest.raises(UsageError, match=why):
        fit_wrinkle_index("forehead", features, np.array(ages), ["a"] * 4, np.full(4, 512.0))


def test_scores_rank_and_use_age_where_it_is_known(tmp_path) -> None:
    np.testing.assert_allclose(percentile_rank(np.array([3.0, 1.0, 2.0, 2.0])), [0.875, 0.125, 0.5, 0.5])
    scores = aging_scores(np.array([0.0, 0.0, 1.0, -1.0]), np.array([20.0, 60.0, np.nan, np.nan]))
    assert scores[1] > scores[0] and scores[2] > scores[3]


def test_indices_survive_their_file(tmp_path) -> None:
    rng = np.random.default_rng(1)
    index, _ = fit_wrinkle_index(
        "glabella", rng.normal(size=(50, 12)), rng.uniform(20, 70, 50), ["a"] * 50, np.ones(50)
    )
    save_indices(tmp_path / "index.json", [index])
    assert load_indices(tmp_path / "index.json") == {"glabella": index}


def test_pictures_of_one_person_share_a_split_and_shares_are_as_stated() -> None:
    assert person_of("images/london_012_smiling.jpg") == person_of("london_012_neutral.jpg")
    splits = [split_of(f"face_{i}.jpg") for i in range(5000)]
    assert splits.count("test") / 5000 == pytest.approx(0.06, abs=0.012)
    assert splits.count("val") / 5000 == pytest.approx(0.03, abs=0.01)
