"""``python -m export calibrate``: what is measured on a bundle stands in its manifest, and works."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from agesdk.bundle import Bundle, ZoneAgingSettings
from agesdk.faces.zones import ZONE_KINDS
from agesdk.zone_model import ZoneModel
from export.__main__ import main
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
