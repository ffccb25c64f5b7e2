"""``python -m export calibrate``: what is measured on a bundle stands in its manifest, and works."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agesdk.bundle import Bundle, ZoneAgingSettings
from agesdk.faces.zones import ZONE_KINDS
from agesdk.zone_model import ZoneModel
from export import calibration
from export.__main__ import main
from export.calibrate import PASTED_FOR, measure
from export.calibration import Sample, read_sample
from tests import zone_crops


def test_curves_are_written_for_zones_with_enough_crops(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.calibrate.FEWEST_CROPS", 2)
    (tmp_path / "zones").mkdir()
    crops = zone_crops.save(tmp_path / "zones")
    bundle = tmp_path / "bundle"
    shutil.copytree(small_bundle, bundle)
    assert main(["calibrate", str(bundle), "--crops", str(crops), "--threads", "1"]) == 0
    written = Bundle.open(bundle, kind="zone-aging", verify=True)
    assert isinstance(written.settings, ZoneAgingSettings)
    curves = written.settings.source_calibration
    assert set(curves) == {"crows_feet", "under_eye", "nasolabial", "mouth_corner"} <= set(ZONE_KINDS)
    for by_score in curves.values():
        assert [entry.score for entry in by_score] == [0.1, 0.3, 0.5, 0.7, 0.9]
        assert all(a[1] <= b[1] for entry in by_score for a, b in pairwise(entry.curve))
    assert 0.0 <= ZoneModel.open(written, threads=1).condition_score("under_eye", 0.5, 0.4) <= 1.0


def test_results_are_pasted_for_the_target_and_made_under_the_condition(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that answers with its condition, of which the share ``1 - target / 2`` is pasted."""
    crops = zone_crops.save(tmp_path)
    monkeypatch.setattr("export.calibrate.FEWEST_CROPS", 2)

    def age_crops(model: Any, crops: list[Any], conditions: list[float], seed: Any) -> list[float]:
        return conditions

    def zone_change(crop: Any, result: float, before: float, target: float, *rest: Any) -> np.ndarray:
        return np.full((1, 1, 3), 255.0 * result * (1.0 - target / 2.0), np.float32)

    def scores_of(model: Any, crops: list[Any]) -> list[float]:
        return [float(crop.pixels.max()) / 255.0 for crop in crops]

    def black(*arguments: Any) -> Sample:
        sample = read_sample(*arguments)
        dark = [
            replace(crop, pixels=np.zeros_like(crop.pixels), skin=np.ones_like(crop.skin))
            for crop in sample.crops
        ]
        return Sample(tuple(dark), sample.targets)

    monkeypatch.setattr(calibration, "age_crops", age_crops)
    monkeypatch.setattr(calibration, "scores_of", scores_of)
    monkeypatch.setattr(calibration, "read_sample", lambda *a, seed: black(*a, seed))
    monkeypatch.setattr("agesdk.zone_aging.zone_change", zone_change)
    curves = measure(Bundle.open(small_bundle), crops, 40, 1)
    for by_score in curves.values():
        for target, condition in by_score[0].curve[2:6]:
            share = np.interp(target, PASTED_FOR, [1.0 - other / 2.0 for other in PASTED_FOR])
            assert condition == pytest.approx(target / share, abs=0.01)


def test_what_can_not_be_calibrated_is_said_in_a_sentence(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (small_bundle / "manifest.json").read_bytes()
    for words in (
        ["calibrate", str(small_bundle), "--crops", str(tmp_path)],
        ["calibrate", str(tmp_path), "--crops", str(tmp_path)],
        ["calibrate", str(small_bundle), "--crops", str(tmp_path), "--count", "0"],
    ):
        assert main(words) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert (small_bundle / "manifest.json").read_bytes() == before
