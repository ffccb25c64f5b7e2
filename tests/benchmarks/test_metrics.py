"""The measures against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats

from benchmarks.quality import metrics


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_equals_scipy(ties: bool) -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        x, y = random.normal(size=9), random.normal(size=9)
        if ties:
            x, y = np.round(x), np.round(y)
        assert metrics.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_spearman_of_a_constant_is_no_correlation() -> None:
    assert metrics.spearman([1, 2, 3], [5, 5, 5]) == 0.0


def test_psnr_of_a_constant_difference() -> None:
    a = np.full((8, 8, 3), 100, np.uint8)
    assert metrics.psnr(a, a + np.uint8(5)) == pytest.approx(20 * np.log10(255 / 5))


def test_psnr_of_identical_pictures_is_the_cap() -> None:
    a = np.zeros((4, 4), np.uint8)
    assert metrics.psnr(a, a) == metrics.PSNR_CAP


def test_low_pass_equals_an_independent_gaussian() -> None:
    image = np.random.default_rng(2).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    expected = ndimage.gaussian_filter(image.astype(np.float64), (5, 5, 0), mode="mirror", truncate=4.0)
    assert np.abs(metrics.low_pass(image, 5.0) - expected).max() < 0.05


def test_low_pass_psnr_forgives_fine_detail_and_not_tone() -> None:
    flat = np.full((128, 128, 3), 120, np.uint8)
    stripes, blotch = flat.copy(), flat.copy()
    stripes[::2] += np.uint8(20)
    stripes[1::2] -= np.uint8(20)
    blotch[32:96, 32:96] += np.uint8(20)
    assert metrics.low_pass_psnr(flat, stripes) > 60
    assert metrics.low_pass_psnr(flat, blotch) == pytest.approx(metrics.psnr(flat, blotch), abs=2)


def test_ita_of_a_neutral_grey_is_ninety_degrees() -> None:
    lightness, ita = metrics.skin_lightness(np.full((10, 3), 200, np.uint8))
    assert lightness == pytest.approx(80.604, abs=0.2)  # CIE L* of sRGB 200
    assert ita == pytest.approx(90, abs=0.5)


@pytest.mark.parametrize(
    ("rgb", "group"), [((241, 215, 195), "light"), ((190, 140, 105), "medium"), ((90, 60, 45), "dark")]
)
def test_ita_groups_order_skin_tones(rgb: tuple[int, int, int], group: str) -> None:
    _, ita = metrics.skin_lightness(np.array([rgb] * 5, np.uint8))
    assert metrics.ita_group(ita) == group


def test_worst_to_best_is_symmetric_in_direction() -> None:
    groups = {"light": 2.0, "dark": 1.5, "empty": float("nan")}
    assert metrics.worst_to_best(groups, True) == pytest.approx(0.75)
    assert metrics.worst_to_best(groups, False) == pytest.approx(0.75)
    assert np.isnan(metrics.worst_to_best({"one": 2.0}, True))  # nothing to compare with
    assert metrics.worst_to_best({"a": -1.0, "b": 2.0}, True) == 0.0


def test_mean_ignores_what_was_not_measured() -> None:
    assert metrics.mean([1.0, float("nan"), 3.0]) == 2.0
    assert np.isnan(metrics.mean([]))
