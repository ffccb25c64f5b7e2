"""``python -m export calibrate``: what is measured on a bundle stands in its manifest, and works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agesdk.bundle import Bundle, ZoneAgingSettings
from agesdk.errors import UsageError
from agesdk.faces.zones import ZONE_KINDS, ZONES
from agesdk.zone_model import ZoneModel
from agesdk.zone_prepared import ZoneCrop
from export import calibration
from export.__main__ import main
from export.calibrate import PASTED_FOR, measure
from export.calibration import Sample, read_sample
from export.score_reader import index_reader
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

    def read(crops: Sequence[ZoneCrop]) -> list[float]:
        return [float(crop.pixels.max()) / 255.0 for crop in crops]

    def black(*arguments: Any) -> Sample:
        sample = read_sample(*arguments)
        dark = [
            replace(crop, pixels=np.zeros_like(crop.pixels), skin=np.ones_like(crop.skin))
            for crop in sample.crops
        ]
        return Sample(tuple(dark), sample.targets)

    monkeypatch.setattr(calibration, "age_crops", age_crops)
    monkeypatch.setattr(calibration, "scores_of", lambda model, crops: [0.0] * len(crops))
    monkeypatch.setattr(calibration, "read_sample", lambda *a, seed: black(*a, seed))
    monkeypatch.setattr("agesdk.zone_aging.zone_change", zone_change)
    curves = measure(ZoneModel.open(small_bundle, threads=1), crops, read, 40)
    for by_score in curves.values():
        for target, condition in by_score[0].curve[2:6]:
            share = np.interp(target, PASTED_FOR, [1.0 - other / 2.0 for other in PASTED_FOR])
            assert condition == pytest.approx(target / share, abs=0.01)


def test_the_rank_of_the_index_among_training_crops_is_the_score(tmp_path: Path) -> None:
    """Forehead crops with ever deeper stripes; those of another split, deeper still, do not count."""
    table = (zone_crops.save(tmp_path) / "index.csv").read_text().splitlines()
    stripes = np.broadcast_to(np.sin(np.arange(160) / 2.0)[None, :, None], (160, 160, 3))
    header, row = table[0], next(line for line in table if ",forehead," in line).split(",")
    splits = ["train"] * 10 + ["val"] * 10
    lines = [
        ",".join([f"{n}.jpg", *row[1:4], "0.5", *row[5:8], split, *row[9:]]) for n, split in enumerate(splits)
    ]
    (tmp_path / "index.csv").write_text("\n".join([header, *lines]))
    striped = [np.clip(120 + 4.0 * n * stripes, 0, 255).astype(np.uint8) for n in range(20)]
    np.save(tmp_path / "crops.npy", np.stack(striped))
    np.save(tmp_path / "masks.npy", np.full((20, 160, 160), 255, np.uint8))
    read = index_reader(tmp_path, ["forehead"], 128)
    forehead = next(zone for zone in ZONES if zone.kind == "forehead")
    inner, skin = slice(16, 144), np.ones((128, 128), np.float32)
    scores = read([ZoneCrop(forehead, np.eye(2, 3), crop[inner, inner].copy(), skin) for crop in striped])
    assert scores == pytest.approx([min(0.05 + 0.1 * n, 0.95) for n in range(20)], abs=1e-6)


def test_folders_that_no_index_can_be_read_of_are_refused(tmp_path: Path) -> None:
    zone_crops.save(tmp_path)
    for text in ("[]", "null", '{"forehead": {"kind": "forehead"}}', "{", '{"forehead": 1}'):
        (tmp_path / "wrinkle-index.json").write_text(text)
        with pytest.raises(UsageError, match="no usable table of wrinkle indices"):
            index_reader(tmp_path, ["forehead"], 128)
    for change in (
        {"weights": [1.0]},
        {"weights": ["1.0"] * 12},
        {"weights": "123456789012"},
        {"mean": "0"},
        {"deviation": 0.0},
        {"mean": float("nan")},
    ):
        entry = {
            "kind": "forehead",
            "weights": [1.0] * 12,
            "mean": 0.0,
            "deviation": 1.0,
            "spearman_with_age": 0,
        }
        (tmp_path / "wrinkle-index.json").write_text(json.dumps({"forehead": entry | change}))
        with pytest.raises(UsageError, match="no usable table of wrinkle indices"):
            index_reader(tmp_path, ["forehead"], 128)
    (tmp_path / "wrinkle-index.json").write_text("{}")
    with pytest.raises(UsageError, match="no wrinkle index of forehead") as caught:
        index_reader(tmp_path, ["forehead"], 128)
    assert "--reader score-net" in str(caught.value)


def test_score_net_reads_where_scores_are_not_of_an_index(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.calibrate.FEWEST_CROPS", 2)
    (tmp_path / "zones").mkdir()
    crops = zone_crops.save(tmp_path / "zones")
    (crops / "wrinkle-index.json").write_text("{}")  # as prepare-zones writes it where ages are not known
    shutil.copytree(small_bundle, tmp_path / "bundle")
    words = ["calibrate", str(tmp_path / "bundle"), "--crops", str(crops), "--threads", "1"]
    assert main(words) == 2
    assert "--reader score-net" in (told := capsys.readouterr().err) and "Traceback" not in told
    manifest = "manifest.json"
    assert (tmp_path / "bundle" / manifest).read_bytes() == (small_bundle / manifest).read_bytes()
    assert main([*words, "--reader", "score-net"]) == 0
    settings = Bundle.open(tmp_path / "bundle").settings
    assert isinstance(settings, ZoneAgingSettings) and settings.source_calibration


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
