"""``python -m benchmarks lifespan`` and ``lifespan-blend`` on a tiny bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from agesdk.imaging import read_image
from agesdk.lifespan_aging import LifespanAger
from benchmarks.__main__ import main
from benchmarks.lifespan_blend import seam
from tests.lifespan_reference import ROOT, Variant

PORTRAIT = ROOT / "agesdk/data/astronaut.jpg"


def test_costs_of_an_option(variant_a: Variant, capsys: pytest.CaptureFixture[str]) -> None:
    """Each in its own process; chaining saves a round trip of the autoencoder and changes the picture."""
    bundle = str(variant_a.switch.path)
    arguments = [str(PORTRAIT), bundle, "--to", "75", "--option", "latent_chaining", "--json"]
    assert main(["lifespan", *arguments]) == 0
    published, chained = json.loads(capsys.readouterr().out)
    assert (published["option"], chained["option"]) == ("as published", "latent_chaining")
    assert published["psnr_db"] is None and 20.0 < chained["psnr_db"] < 80.0
    assert chained["steps"] == published["steps"] == 4
    assert chained["age_seconds"] < published["age_seconds"]
    for cost in (published, chained):
        assert 20 < cost["opened_mb"] <= cost["prepared_mb"] <= cost["peak_mb"] < 8000


def test_a_bundle_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lifespan", str(PORTRAIT), str(tmp_path)]) == 2
    assert "manifest.json" in capsys.readouterr().err


def test_a_photo_that_can_not_be_read_is_told(variant_a: Variant, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lifespan", "none.jpg", str(variant_a.switch.path), "--option", "align"]) == 2
    told = capsys.readouterr().err
    assert "none.jpg does not exist" in told and "Traceback" not in told


def test_a_blend_has_less_seam_and_tint_than_a_paste(variant_a: Variant) -> None:
    ager = LifespanAger.load(variant_a.switch, threads=1)
    result = ager.age(ager.prepare(PORTRAIT, align=True), 40, 42, "female", seed=1)
    found = seam(result, ager.blend(result))
    assert found.step < 0.25 * found.plain_step
    assert found.tint < found.plain_tint
    assert found.outside == 0.0
    pasted = result.person.picture.copy()
    pasted[:9, :9] = 255 - pasted[:9, :9]
    assert seam(result, pasted).outside == pytest.approx(81 / pasted[..., 0].size)


def test_blends_are_written_to_look_at(
    variant_a: Variant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    shutil.copy(PORTRAIT, faces)
    arguments = [str(faces), str(variant_a.switch.path), "--out", str(tmp_path / "out")]
    assert main(["lifespan-blend", *arguments]) == 0
    assert "| worst of 1 |" in capsys.readouterr().out
    sheet, photo = read_image(tmp_path / "out/astronaut.png"), read_image(PORTRAIT)
    width = photo.shape[1]
    np.testing.assert_array_equal(sheet[:, :width], photo)
    assert (sheet[:, width : 2 * width] != sheet[:, 2 * width :]).any()
