"""``python -m benchmarks lifespan`` and ``lifespan-photo`` on a tiny bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from agesdk.imaging import read_image
from benchmarks.__main__ import main
from benchmarks.lifespan_photo import eyes, seam
from tests.lifespan_reference import ROOT, Variant

PORTRAIT = ROOT / "agesdk/data/astronaut.jpg"


def test_costs_of_an_option(variant_a: Variant, capsys: pytest.CaptureFixture[str]) -> None:
    """Each in its own process; chaining saves a round trip of the autoencoder and changes the picture."""
    bundle = str(variant_a.switch.path)
    arguments = [str(PORTRAIT), bundle, "--to", "75", "--option", "latent_chaining", "--json"]
    assert main(["lifespan", *arguments]) == 0
    published, chained = json.loads(capsys.readouterr().out)
    assert (published["option"], chained["option"]) == ("as published", "latent_chaining")
    assert published["psnr_db"] is None and 5.0 < chained["psnr_db"] < 80.0
    assert chained["steps"] == published["steps"] == 4
    assert min(chained["age_seconds"], published["age_seconds"]) > 0.0
    for cost in (published, chained):
        assert 20 < cost["opened_mb"] <= cost["prepared_mb"] <= cost["peak_mb"] < 8000


def test_a_bundle_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lifespan", str(PORTRAIT), str(tmp_path)]) == 2
    assert "manifest.json" in capsys.readouterr().err


def test_a_photo_that_can_not_be_read_is_told(variant_a: Variant, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lifespan", "none.jpg", str(variant_a.switch.path), "--option", "align"]) == 2
    told = capsys.readouterr().err
    assert "none.jpg can not be read: it does not exist" in told and "Traceback" not in told


def test_blends_are_measured_and_written_to_look_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    shutil.copy(PORTRAIT, faces)
    assert main(["lifespan-photo", str(faces), "--out", str(tmp_path / "out")]) == 0
    worst = capsys.readouterr().out.splitlines()[-1]
    plain_step, step, plain_tint, tint, outside = (float(cell) for cell in worst.split("|")[2:-1])
    assert step < 0.1 * plain_step and tint < 0.5 * plain_tint and outside == 0.0
    sheet, photo = read_image(tmp_path / "out/astronaut.png"), read_image(PORTRAIT)
    width = photo.shape[1]
    np.testing.assert_array_equal(sheet[:, :width], photo)
    assert (sheet[:, width : 2 * width] != sheet[:, 2 * width :]).any()


def test_eyes_are_placed_in_the_square() -> None:
    """At fixed places of a picture twice the square's size, one eye 40 pixels lower than the other."""
    from agesdk.faces.align import five_points

    landmarks = np.zeros((468, 3))
    landmarks[:, 0], landmarks[:, 1] = 600.0, 440.0
    left = {33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7}
    landmarks[list(left), :2] = (400.0, 400.0)
    assert five_points(landmarks)[:2].tolist() == [[400.0, 400.0], [600.0, 440.0]]
    found = eyes(landmarks, np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
    assert found.distance == pytest.approx(np.hypot(100, 20) / 512)
    assert found.tilt == pytest.approx(np.degrees(np.arctan(0.2)))
    assert (found.x, found.y) == pytest.approx((250 / 512, 210 / 512))


def test_a_change_outside_the_mask_is_seen() -> None:
    picture = np.full((64, 64, 3), 100, np.uint8)
    mask = np.zeros((64, 64), np.float32)
    mask[20:40, 20:40] = 1.0
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), 2.0), np.float32)
    spoilt = picture.copy()
    spoilt[:8, :8] = 0
    found = seam(picture, spoilt, picture, picture + np.uint8(9), mask, np.eye(2, 3))
    assert found.outside == pytest.approx(64 / 64**2)
    assert found.plain_step == pytest.approx(9.0) and found.plain_tint == pytest.approx(9.0)
