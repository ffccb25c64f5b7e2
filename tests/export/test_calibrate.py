"""``python -m export calibrate``: what is measured on a bundle stands in its manifest, and works."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agesdk.bundle import Bundle, ZoneAgingSettings
from agesdk.cli.demo import demo_portrait
from agesdk.errors import UsageError
from agesdk.faces.zones import ZONE_KINDS
from agesdk.imaging import read_image, write_image
from agesdk.manifest import SourceCurve
from agesdk.zone_aging import PreparedFace, ZoneAger
from agesdk.zone_model import ZoneModel
from export import calibration
from export.__main__ import main
from export.calibrate import PASTED_FOR, in_faces, measure
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

    def read(kind: str, crop: np.ndarray, skin: np.ndarray) -> float:
        return float(crop.max()) / 255.0

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


def test_curves_are_corrected_by_what_whole_faces_answer(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle whose faces come out half as old as was asked."""
    monkeypatch.setattr("export.calibrate.FEWEST_CROPS", 1)
    bundle = Bundle.open(small_bundle)
    assert isinstance(bundle.settings, ZoneAgingSettings)
    line = ((0.0, 0.0), (0.5, 0.4), (1.0, 0.8))
    curves = {"forehead": (SourceCurve(0.1, line), SourceCurve(0.9, line))}
    settings = replace(bundle.settings, source_calibration=curves)

    def age(ager: ZoneAger, face: PreparedFace, target: float, seed: int) -> SimpleNamespace:
        assert ager.model.settings.source_calibration == curves
        return SimpleNamespace(image=np.full_like(face.image, round(target * 100)))

    def read(kind: str, crop: np.ndarray, skin: np.ndarray) -> float:
        return float(crop.mean()) / 200.0

    monkeypatch.setattr(ZoneAger, "age", age)
    mirrored = tmp_path / "mirrored.png"
    write_image(mirrored, np.ascontiguousarray(read_image(demo_portrait())[:, ::-1]))
    portraits = [demo_portrait(), mirrored]  # two scores before, or there is no line through them
    corrected = in_faces(bundle, settings, portraits, read, 1).source_calibration["forehead"]
    assert [entry.score for entry in corrected] == [0.1, 0.9]
    for entry in corrected:
        assert dict(entry.curve)[0.3] == pytest.approx(0.8 * 0.6, abs=1e-3)
        assert dict(entry.curve)[1.0] == pytest.approx(0.8)


def test_the_index_reads_more_lines_as_an_older_score(tmp_path: Path) -> None:
    crops, masks = np.load(zone_crops.save(tmp_path) / "crops.npy"), np.load(tmp_path / "masks.npy")
    columns = 40 * np.sin(np.arange(160) / 2.0)
    rows = [line for line in (tmp_path / "index.csv").read_text().splitlines() if ",forehead," in line]
    assert len(rows) == 4
    table = (tmp_path / "index.csv").read_text().splitlines()
    for row, line in enumerate(table[1:]):
        fields = line.split(",")
        fields[4], fields[8] = f"{row / 100:.5f}", "train"
        table[row + 1] = ",".join(fields)
        crops[row] = np.clip(120 + columns[None, :, None] * row / len(crops), 0, 255)
    (tmp_path / "index.csv").write_text("\n".join(table))
    np.save(tmp_path / "crops.npy", crops)
    read = index_reader(tmp_path)
    inner, rows_of = slice(16, 144), [n for n, line in enumerate(table[1:]) if ",forehead," in line]
    scores = [
        read("forehead", crops[n, inner, inner].copy(), masks[n, inner, inner] / np.float32(255))
        for n in rows_of
    ]
    assert scores == pytest.approx([n / 100 for n in rows_of], abs=1e-6)
    (tmp_path / "wrinkle-index.json").write_text("{}")
    with pytest.raises(UsageError, match="no wrinkle index of forehead"):
        index_reader(tmp_path)("forehead", crops[0, inner, inner], np.ones((128, 128), np.float32))


def test_score_net_reads_where_scores_are_not_of_an_index(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.calibrate.FEWEST_CROPS", 2)
    (tmp_path / "zones").mkdir()
    crops = zone_crops.save(tmp_path / "zones")
    (crops / "wrinkle-index.json").unlink()
    shutil.copytree(small_bundle, tmp_path / "bundle")
    words = ["calibrate", str(tmp_path / "bundle"), "--crops", str(crops), "--threads", "1"]
    assert main(words) == 2
    assert main([*words, "--reader", "score-net"]) == 0
    settings = Bundle.open(tmp_path / "bundle").settings
    assert isinstance(settings, ZoneAgingSettings) and settings.source_calibration


def test_what_can_not_be_calibrated_is_said_in_a_sentence(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (small_bundle / "manifest.json").read_bytes()
    (tmp_path / "zones").mkdir()
    crops = zone_crops.save(tmp_path / "zones")
    for words in (
        ["calibrate", str(small_bundle), "--crops", str(tmp_path)],
        ["calibrate", str(tmp_path), "--crops", str(tmp_path)],
        ["calibrate", str(small_bundle), "--crops", str(tmp_path), "--count", "0"],
        ["calibrate", str(small_bundle), "--crops", str(crops), "--faces", str(tmp_path)],
    ):
        assert main(words) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert (small_bundle / "manifest.json").read_bytes() == before
