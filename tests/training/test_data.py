"""Samples: pure functions of their position, drawn as the configuration says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agesdk.errors import UsageError
from agesdk.faces.zones import ZONE_KINDS
from agesdk.manifest import SchedulerSettings
from training.config import ConfigError, DataConfig, config_from_dict
from training.data import (
    CachedLatents,
    PositionBatches,
    Samples,
    SampleSpec,
    ZoneCrops,
    sampling_weights,
    to_float,
)

SPEC = SampleSpec(
    (4, 16, 16), (0, 1000), (60, 850), (60, 600), blur_sigmas=(5.0, 7.0), blur_sigma=7.0, zone_share=0.5
)


@pytest.fixture
def crops(zones_folder: Path) -> ZoneCrops:
    return ZoneCrops.open(zones_folder)


def samples(crops: ZoneCrops, split: str = "train", spec: SampleSpec = SPEC, **changes: Any) -> Samples:
    return Samples(crops, split, DataConfig("zones", **changes), spec, seed=3)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_sample_depends_on_its_position_only(crops: ZoneCrops) -> None:
    forwards, backwards = samples(crops, old_weight=2.0), samples(crops, old_weight=2.0)
    first = [forwards[position] for position in (0, 1, 50)]
    second = [backwards[position] for position in (50, 1, 0)][::-1]
    assert all(same(a, b) for a, b in zip(first, second))
    assert not same(first[0], first[1])


def test_sample_holds_what_the_objective_takes(crops: ZoneCrops) -> None:
    sample = samples(crops)[0]
    shapes = {name: np.shape(value) for name, value in sample.items()}
    latent = (4, 16, 16)
    noises = ("noise", "posterior_noise", "target_noise", "cycle_noise", "return_noise")
    assert shapes == {
        **dict.fromkeys(noises, latent),
        "image": (3, 128, 128),
        "blurred": (3, 128, 128),
        "mask": (1, 16, 16),
        **dict.fromkeys(
            ("zone", "score", "drop", "ancestry", "timestep", "target", "target_timestep", "cycle_target",
             "cycle_timestep", "return_timestep"),
            (),
        ),
    }  # fmt: skip
    assert sample["image"].min() >= -1.0 and sample["image"].max() <= 1.0
    lean = samples(crops, spec=replace(SPEC, posterior=False, targets=False, cycle=False, blur_sigma=None))[0]
    assert not lean.keys() & {"posterior_noise", "target", "cycle_noise", "blurred"}


def test_draws_stay_in_their_spans_and_noise_is_standard(crops: ZoneCrops) -> None:
    drawn = [samples(crops)[position] for position in range(200)]
    for name, low, high in (
        ("timestep", 0, 1000),
        ("target_timestep", 60, 850),
        ("return_timestep", 60, 600),
    ):
        values = [int(sample[name]) for sample in drawn]
        assert (
            low <= min(values) < low + 0.1 * (high - low) and high - 0.1 * (high - low) < max(values) < high
        )
    assert np.mean([sample["drop"] for sample in drawn]) == pytest.approx(0.5, abs=0.12)
    noise = np.stack([sample["noise"] for sample in drawn])
    assert noise.mean() == pytest.approx(0, abs=0.01) and noise.std() == pytest.approx(1, abs=0.01)


def test_every_scored_crop_of_the_split_comes_once_an_epoch(crops: ZoneCrops) -> None:
    drawn = samples(crops)
    count = len(drawn.rows)
    assert count == 23  # two faces of twelve zones, one crop without a score
    rng = np.random.default_rng(0)
    for epoch in range(2):
        rows = [drawn.row(epoch * count + place, rng) for place in range(count)]
        assert sorted(rows) == drawn.rows.tolist() and 3 not in rows


def test_weights_follow_zone_score_and_skin(crops: ZoneCrops) -> None:
    rows = np.flatnonzero(np.isfinite(crops.score))
    assert np.all(sampling_weights(crops, rows, DataConfig("zones")) == 1.0)
    config = DataConfig("zones", zone_weights={"forehead": 2.0}, old_weight=3.0, dark_skin_weight=1.5)
    weights = sampling_weights(crops, rows, config)
    dark = crops.lightness[rows] <= np.quantile(crops.lightness[rows], 0.25)
    forehead = crops.zone[rows] == ZONE_KINDS.index("forehead")
    expected = np.where(forehead, 2.0, 1.0) * (1 + 2 * crops.score[rows]) * np.where(dark, 1.5, 1.0)
    np.testing.assert_allclose(weights, expected)
    balanced = sampling_weights(crops, rows, DataConfig("zones", balance_zones=True))
    assert np.bincount(crops.zone[rows], balanced) == pytest.approx(np.ones(len(ZONE_KINDS)))


def test_weighted_draws_come_as_often_as_their_weight_says(crops: ZoneCrops) -> None:
    drawn = samples(crops, zone_weights=dict.fromkeys(ZONE_KINDS[2:], 0.0) | {ZONE_KINDS[0]: 3.0})
    rng = np.random.default_rng(0)
    kinds = crops.zone[[drawn.row(position, rng) for position in range(2000)]]
    assert set(kinds) == {0, 1}
    assert np.mean(kinds == 0) == pytest.approx(0.75, abs=0.03)


def test_validation_takes_plain_crops(crops: ZoneCrops) -> None:
    held_out = samples(crops, "val")
    rng = np.random.default_rng(0)
    row = held_out.row(0, rng)
    np.testing.assert_array_equal(
        held_out[0]["image"], to_float(np.asarray(crops.crops[row, 16:144, 16:144]))
    )


def test_processes_share_the_batches_of_one_process() -> None:
    whole = list(PositionBatches(10, [4, 4, 6]))
    halves = [list(PositionBatches(10, [2, 2, 3], rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves)] == whole
    assert whole[-1] == list(range(18, 24))


def test_latents_encoded_in_advance_replace_pictures(crops: ZoneCrops, tmp_path: Path) -> None:
    count, variants = len(crops.crops), 3
    rng = np.random.default_rng(0)
    arrays = {
        "latents": rng.normal(size=(count, variants, 4, 16, 16)).astype(np.float16),
        "blurred": rng.normal(size=(count, variants, 4, 16, 16)).astype(np.float16),
        "masks": rng.integers(0, 256, (count, variants, 16, 16), dtype=np.uint8),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(ConfigError, match="finished latents"):
        CachedLatents.open(tmp_path, count, (4, 16, 16))
    (tmp_path / "DONE").touch()
    with pytest.raises(ConfigError, match="8, 16, 16"):
        CachedLatents.open(tmp_path, count, (8, 16, 16))
    cache = CachedLatents.open(tmp_path, count, (4, 16, 16))
    drawn = Samples(crops, "train", DataConfig("zones"), SPEC, 0, cache)
    sample = drawn[5]
    row = drawn.row(5, np.random.default_rng(0))
    assert "image" not in sample
    matches = [
        np.array_equal(sample["latents"], arrays["latents"][row, v].astype(np.float32)) for v in range(3)
    ]
    assert sum(matches) == 1
    variant = matches.index(True)
    np.testing.assert_array_equal(
        sample["masked_latents"], arrays["blurred"][row, variant].astype(np.float32)
    )
    np.testing.assert_allclose(sample["mask"][0], arrays["masks"][row, variant] / 255, rtol=1e-6)


def break_folder(folder: Path, kind: str) -> None:
    if kind == "no crops":
        (folder / "crops.npy").unlink()
    elif kind == "fewer masks":
        np.save(folder / "masks.npy", np.zeros((3, 160, 160), np.uint8))
    else:
        index = folder / "index.csv"
        old, new = {"zone": (",forehead,centre", ",knee,centre"), "score": ("0.20000", "1.20000")}[kind]
        index.write_text(index.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no crops", "does not hold prepared zone crops.*prepare-zones"),
        ("fewer masks", "is inconsistent"),
        ("zone", "zone kind 'knee'"),
        ("score", "scores outside 0..1"),
    ],
)
def test_broken_folders_say_what_is_wrong(
    zones_folder: Path, tmp_path: Path, kind: str, message: str
) -> None:
    folder = tmp_path / "zones"
    shutil.copytree(zones_folder, folder)
    break_folder(folder, kind)
    with pytest.raises(UsageError, match=message):
        ZoneCrops.open(folder)


def test_unknown_zone_weight_and_absent_split_are_errors(crops: ZoneCrops) -> None:
    with pytest.raises(ConfigError, match=r"data\.zone_weights\.knee is no zone kind"):
        samples(crops, zone_weights={"knee": 1.0})
    with pytest.raises(ConfigError, match="no scored crop with split 'holdout'"):
        samples(crops, "holdout")


def test_timesteps_beyond_the_schedule_are_an_error(small_config: Any) -> None:
    config = config_from_dict(small_config(objective={"cycle_timesteps": [0, 2000]}))
    with pytest.raises(ConfigError, match=r"objective\.cycle_timesteps ends at 2000"):
        SampleSpec.of(config, (4, 16, 16), SchedulerSettings())
