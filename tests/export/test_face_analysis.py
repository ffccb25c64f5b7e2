"""``python -m export face-analysis``: what it refuses and measures, and the bundle it makes from the wheel.

Set AGESDK_MEDIAPIPE_WHEEL to the wheel's path to have the whole export run.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from agesdk.bundle import embedded_bundle
from agesdk.errors import UsageError
from export.__main__ import main
from export.errors import ParityError
from export.face_analysis import NETWORKS, compare, read_wheel, sample_pictures
from export.face_shape import TABLE, measure_face_shape

WHEEL = os.environ.get("AGESDK_MEDIAPIPE_WHEEL")


@pytest.mark.skipif(not WHEEL, reason="AGESDK_MEDIAPIPE_WHEEL is not set")
def test_the_embedded_bundle_is_what_the_command_writes(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    assert main(["face-analysis", str(tmp_path / "bundle"), "--wheel", str(WHEEL)]) == 0
    embedded = embedded_bundle("face-analysis")
    for path in sorted(embedded.rglob("*.onnx")):
        assert (tmp_path / "bundle" / path.relative_to(embedded)).read_bytes() == path.read_bytes()


def test_a_wheel_with_other_networks_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = tmp_path / "mediapipe.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for network in NETWORKS:
            archive.writestr(network.path, b"another network")
    assert main(["face-analysis", str(tmp_path / "bundle"), "--wheel", str(wheel)]) == 2
    assert "SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("content", [None, b"not a zip", b""])
def test_other_files_are_no_wheel(tmp_path: Path, content: bytes | None) -> None:
    wheel = tmp_path / "x.whl"
    if content is not None:
        wheel.write_bytes(content)
    with pytest.raises(UsageError, match="not the wheel"):
        read_wheel(wheel)


def test_a_difference_beyond_float_sums_stops_the_export() -> None:
    reference = {"boxes": np.array([100.0, -50.0], np.float32)}
    assert compare("face_detector", reference, {"boxes": reference["boxes"] + 1e-4})["boxes"]["max_abs"] > 0
    with pytest.raises(ParityError, match="boxes of face_detector"):
        compare("face_detector", reference, {"boxes": reference["boxes"] + 1e-2})
    assert compare("face_detector", None, reference) == {"reference": None}


def test_sample_pictures_are_the_same_every_time() -> None:
    first, second = sample_pictures(64), sample_pictures(64)
    assert first.shape == (3, 64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, second)


def test_the_mean_face_of_scattered_copies_of_a_face_is_that_face() -> None:
    rng = np.random.default_rng(0)
    with np.load(TABLE) as table:
        mean, mirror = table["mean_face"].astype(np.float64), table["mirror"]
    meshes = []
    for _ in range(12):
        yaw, roll = rng.uniform(-0.1, 0.1, 2)
        about_y = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
        about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
        meshes.append(rng.uniform(20, 300) * mean @ (about_z @ about_y).T + rng.normal(0, 100, 3))
    measured, pairs = measure_face_shape(np.stack(meshes))
    assert np.array_equal(pairs, mirror)
    assert np.allclose(measured, mean, atol=1e-4)
