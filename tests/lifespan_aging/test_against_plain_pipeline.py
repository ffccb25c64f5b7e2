"""Cases that were not recorded, against the method written in plain diffusers with the same noise."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from agesdk.bundle import SvrSettings
from agesdk.imaging import read_image
from benchmarks.plain_lifespan import PlainPipeline
from export.cradle2cane import Options
from export.cradle2cane.command import make_settings
from export.cradle2cane.source import Source
from tests.lifespan_reference import ROOT, Variant

CLOSE = 1e-4


@pytest.fixture(scope="module")
def plain() -> Any:
    """`PlainPipeline` of a variant, loaded once."""
    kept: dict[str, PlainPipeline] = {}

    def load(variant: Variant) -> PlainPipeline:
        if variant.name not in kept:
            kept[variant.name] = PlainPipeline(variant.models)
        return kept[variant.name]

    return load


def photograph(size: tuple[int, int]) -> Image.Image:
    """Width and height of a part of a real portrait."""
    pixels = read_image(ROOT / "agesdk/data/astronaut.jpg")
    return Image.fromarray(pixels).resize((700, 700)).crop((20, 0, 20 + size[0], size[1]))


def assert_same(
    variant: Variant,
    plain: PlainPipeline,
    image: Image.Image,
    ages: tuple[int, int],
    ager_settings: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Tokens within 1e-4 (1e-3 where the face token reads the first picture, see `test_goldens`), pictures
    within one level in one percent of the values."""
    wanted = plain.run(image, *ages, "female", seed=sum(ages), **options)
    text = "graphs" if "addition" in options else "tables"
    ager = variant.ager(text=text, **(ager_settings or {}))
    result = ager.age(ager.prepare(np.asarray(image)), *ages, "female", noise=wanted.noise, **options)
    close = CLOSE if ager.model.settings.svr is None else 10 * CLOSE
    np.testing.assert_allclose(result.face_token_input, wanted.face_token_input, atol=10 * close, rtol=1e-4)
    np.testing.assert_allclose(result.tokens, wanted.tokens, atol=close, rtol=0)
    assert (result.first_pass_image is None) == (wanted.aged is None)
    for ours, theirs in ((result.first_pass_image, wanted.aged), (result.image, wanted.final)):
        if ours is None or theirs is None:
            continue
        difference = np.abs(ours.astype(int) - theirs)
        assert difference.max() <= 1 and (difference > 0).mean() <= 0.01


@pytest.mark.parametrize(
    "ages",
    [(40, 40), (25, 30), (30, 25), (25, 31), (25, 55), (25, 56)],
    ids=["equal", "t1", "t1 down", "above t1", "t2", "above t2"],
)
def test_gaps_at_the_thresholds_and_none(variant_a: Variant, plain: Any, ages: tuple[int, int]) -> None:
    assert_same(variant_a, plain(variant_a), photograph((512, 512)), ages)


@pytest.mark.parametrize("ages", [(40, 40), (25, 27), (44, 25), (25, 45)], ids=["equal", "t1", "t2", "above"])
def test_the_same_with_svr_and_by_vector(variant_b: Variant, plain: Any, ages: tuple[int, int]) -> None:
    assert_same(variant_b, plain(variant_b), photograph((512, 512)), ages)


def test_one_threshold(variant: Variant, plain: Any) -> None:
    assert_same(variant, plain(variant), photograph((512, 512)), (25, 70), one_threshold=True)


def test_an_addition_to_the_prompt(variant: Variant, plain: Any) -> None:
    """The strength is 0.75 whatever the gap, and the second pass's pooled embedding has the addition too."""
    picture = photograph((512, 512))
    assert_same(variant, plain(variant), picture, (25, 27), addition="wearing glasses, smiling")


@pytest.mark.parametrize("size", [(640, 481), (431, 700), (223, 301)], ids=["wide", "tall", "small"])
def test_pictures_that_are_not_square(variant_a: Variant, plain: Any, size: tuple[int, int]) -> None:
    assert_same(variant_a, plain(variant_a), photograph(size), (25, 45))


def test_latents_handed_from_pass_to_pass(variant_a: Variant, plain: Any) -> None:
    assert_same(variant_a, plain(variant_a), photograph((512, 512)), (25, 75), latent_chaining=True)


@pytest.mark.parametrize("ages", [(25, 35), (25, 60)])
def test_four_image_svr(variant_b: Variant, plain: Any, ages: tuple[int, int]) -> None:
    """Which the script means to do: source, first pass, and first passes at the other two strengths."""
    pipeline = plain(variant_b)
    pipeline.hparams["use_four_image_swr"] = True
    try:
        svr = SvrSettings(0.01, 1.1, (0.25, 0.5, 0.75))
        assert_same(variant_b, pipeline, photograph((512, 512)), ages, {"svr": svr})
    finally:
        pipeline.hparams["use_four_image_swr"] = False


@pytest.mark.parametrize(
    "changes, options, mode, pictures",
    [
        ({"use_adaptive_noise_inject": False}, {}, "fixed", 2),
        ({"use_adaptive_noise_inject": False, "one_threshold": True}, {}, "one_threshold", 2),
        ({"one_threshold": True}, {}, "one_threshold", 2),
        ({"use_swr": False, "use_four_image_swr": True}, {}, "two_thresholds", 0),
    ],
)
def test_switches_of_the_hyperparameters(
    variant_b: Variant, tmp_path: Path, changes: dict[str, Any], options: Any, mode: str, pictures: int
) -> None:
    """As the script decides between them: one threshold before adaptive noise, four images only with SVR."""
    models = Path(shutil.copytree(variant_b.models, tmp_path / "models", copy_function=os.link))
    path = models / "Cradle2Cane/hparams.yml"
    values = {**yaml.safe_load(path.read_text()), **changes}
    path.unlink()
    path.write_text(yaml.safe_dump(values))
    settings = make_settings(Source.open(models), Options(models, tmp_path / "bundle"))
    assert settings.adaptive_noise.mode == mode
    assert (settings.svr is None) == (pictures == 0)
