"""The whole command with a stand-in for the model, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import agesdk
from agesdk.faces import FaceAnalyzer, select_face
from agesdk.faces.zones import ZONES, crop_transform, resolve_targets
from agesdk.imaging import read_image, write_image
from benchmarks.__main__ import main
from benchmarks.quality.identity import IdentityNetwork
from benchmarks.quality.measure import unchanged_outside

PORTRAIT = Path(agesdk.__file__).parent / "data" / "astronaut.jpg"


class StripesAger:
    """Adds to every treated zone stripes as strong as its target: a monotone, local "aging"."""

    def __init__(self) -> None:
        self.analyzer = FaceAnalyzer.load()

    def prepare(self, image: np.ndarray) -> Any:
        face = select_face(self.analyzer.detect(image))
        scores = {zone.name: 0.5 for zone in ZONES if zone.name != "upper_lip"}
        return SimpleNamespace(image=image, face=face, scores=scores, skipped={"upper_lip": "covered"})

    def age(self, prepared: Any, targets: Any, seed: int) -> Any:
        image = prepared.image.astype(np.float32)
        rows = np.arange(image.shape[0])[:, None, None]
        strength = np.zeros(image.shape[:2], np.float32)
        for name, target in resolve_targets(targets).scores.items():
            zone = next(zone for zone in ZONES if zone.name == name)
            if name not in prepared.skipped:
                transform = crop_transform(prepared.face.landmarks, zone)
                centre = transform[:, :2] @ (63.5, 63.5) + transform[:, 2]
                radius = 50 * float(np.linalg.norm(transform[:, 0]))
                cv2.circle(strength, tuple(np.round(centre).astype(int).tolist()), round(radius), target, -1)
        aged = image + 12 * strength[..., None] * np.where(rows % 4 < 2, -1, 1)
        return SimpleNamespace(image=np.clip(aged, 0, 255).astype(np.uint8))


class MeanColours:
    """Stands in for the identity network: mean colours of the four quarters of a picture."""

    def features(self, images: list[np.ndarray], block: str) -> np.ndarray:
        return np.array([cv2.resize(i, (2, 2), interpolation=cv2.INTER_AREA).ravel() / 255 for i in images])

    def project(self, features: np.ndarray) -> np.ndarray:
        return features


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of one portrait (two names) and stand-ins for all that is large."""
    image = read_image(PORTRAIT)
    write_image(tmp_path / "a.png", image)
    write_image(tmp_path / "b.png", image[:, ::-1].copy())
    write_image(tmp_path / "blank.png", np.full((64, 64, 3), 200, np.uint8))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    ager = StripesAger()
    monkeypatch.setattr("agesdk.zone_aging.ZoneAger.load", lambda *args, **options: ager)
    monkeypatch.setattr(IdentityNetwork, "load", classmethod(lambda cls, source: MeanColours()))
    return tmp_path


def command(folder: Path, zones: Path, *others: str) -> list[str]:
    options = [
        "--data",
        str(zones),
        "--judge",
        "none",
        "--age-model",
        "none",
        "--bundle",
        str(folder / "bundle"),
    ]
    return ["quality-zone", str(folder), *options, "--out", str(folder / "out"), *others]


def test_a_monotone_local_ager_is_measured_as_such(
    measured: Path, zones_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(measured, zones_folder, "--full-size")) == 0
    text = capsys.readouterr().out
    assert "2 held-out faces" in text and "not measured" in text
    report = json.loads((measured / "out" / "report.json").read_text())
    figures = report["figures"]
    assert figures["wrinkle_index"]["spearman"] > 0.9
    assert figures["wrinkle_index"]["change"] > 0
    assert all(figures["untouched"].values())
    assert "upper_lip" not in figures["wrinkle_index"]["change_by_zone"]
    assert set(report["failures"]) == {"blank.png"}
    assert report["provenance"]["versions"]["numpy"] == np.__version__
    assert figures["seconds"]["one_megapixel"]["total"] > 0
    said = json.loads((measured / "out" / "quality.json").read_text())
    assert said["faces"] == 2
    assert said["wrinkle index against target, Spearman per crop"] == figures["wrinkle_index"]["spearman"]
    names = {path.relative_to(measured / "out").as_posix() for path in (measured / "out").rglob("*.png")}
    assert names == {"sheet-01.png", "faces/a.png", "faces/b.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quality-zone", "nowhere"], "index.csv"),
        (["quality-zone", "nowhere", "--data", "nowhere"], "prepare-zones"),
        (["quality-zone", "nowhere", "--faces", "-1"], "--faces"),
        (["quality-zone", "nowhere", "--out", "file/out"], "can not be written"),
        (["quality-zone", "nowhere", "--bundle", "nowhere"], "nowhere"),
    ],
)
def test_what_can_not_be_measured_is_one_sentence_and_exit_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    if "--bundle" not in arguments:
        monkeypatch.setattr("agesdk.zone_aging.ZoneAger.load", lambda *args, **options: None)
        monkeypatch.setattr("agesdk.bundle.embedded_bundle", lambda kind: tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize("arguments", [["--help"], ["quality-zone", "--help"]])
def test_help_needs_no_heavy_import(arguments: list[str]) -> None:
    import subprocess
    import sys

    script = (
        "import sys\n"
        "from benchmarks.__main__ import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert not {'torch', 'cv2', 'onnxruntime'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_a_changed_pixel_outside_the_zones_is_noticed() -> None:
    image = read_image(PORTRAIT)
    landmarks = FaceAnalyzer.load().detect(image)[0].landmarks
    forehead = [zone for zone in ZONES if zone.name == "forehead"]
    inside, outside = image.copy(), image.copy()
    x, y = np.round(landmarks[151, :2]).astype(int)
    inside[y, x] ^= 1
    x, y = np.round(landmarks[152, :2]).astype(int)
    outside[y, x] ^= 1
    assert unchanged_outside(image, inside, landmarks, forehead)
    assert not unchanged_outside(image, outside, landmarks, forehead)
    assert not unchanged_outside(image, image[:-1], landmarks, forehead)
