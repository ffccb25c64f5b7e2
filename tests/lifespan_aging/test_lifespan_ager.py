"""What the ager promises beside the published method: what runs how often, what may not change, and
errors."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import agesdk
from agesdk.bundle import Bundle, SvrSettings
from agesdk.errors import (
    AgeSDKError,
    BundleError,
    Cancelled,
    FaceError,
    ImageError,
    TargetError,
    UsageError,
)
from agesdk.imaging import read_image, read_settings
from agesdk.lifespan_aging import LifespanAger
from agesdk.lifespan_run import Overrides, resolve
from agesdk.precision import EngineSet
from tests.lifespan_reference import ROOT, Prepared, Variant

PORTRAIT = ROOT / "agesdk/data/astronaut.jpg"


@pytest.fixture(scope="module")
def ager(variant_a: Variant) -> LifespanAger:
    return variant_a.ager()


@pytest.fixture(scope="module")
def person(ager: LifespanAger, variant_a: Variant) -> Any:
    return ager.prepare(variant_a.golden["images/astronaut"])


def count_runs(ager: LifespanAger, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often each component runs from here on."""
    runs: Counter[str] = Counter()
    engine_of = EngineSet.__getitem__

    def counting(engines: EngineSet, name: str) -> Any:
        engine: Any = engine_of(engines, name)
        if engines is ager.model.engines and not hasattr(engine, "counted"):
            run = engine.run

            def counted(feeds: Any) -> Any:
                runs[name] += 1
                return run(feeds)

            engine.run = counted
            engine.counted = True
        return engine

    monkeypatch.setattr(EngineSet, "__getitem__", counting)
    return runs


def test_sweep_encodes_the_person_once(variant_a: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    ager = variant_a.ager()
    runs = count_runs(ager, monkeypatch)
    person = ager.prepare(variant_a.golden["images/astronaut"])
    once = {"vae_encoder": 1, "face_encoder": 1, "clip_image_encoder": 1}
    assert runs == once
    ages = list(range(12, 73, 6))[:10]
    results = list(ager.sweep(person, 25, ages, "female", seed=3))
    assert [result.target_age for result in results] == ages
    assert runs["face_encoder"] == runs["clip_image_encoder"] == 1
    assert runs["vae_encoder"] == 1 + len(ages), "beside the source, each first picture is encoded once"
    assert runs["vae_decoder"] == 2 * len(ages)
    assert runs["denoise"] == sum(sum(result.settings["steps_run"]) for result in results)


def test_a_sweep_in_batches_is_the_single_pictures(ager: LifespanAger, person: Any) -> None:
    ages = (20, 26, 28, 40, 50)
    batched = list(ager.sweep(person, 25, ages, "male", seed=3, batch=4))
    for age, result in zip(ages, batched):
        single = ager.age(person, 25, age, "male", seed=3)
        assert result.settings == single.settings
        assert np.abs(result.image.astype(int) - single.image).max() <= 1


def test_a_seed_repeats_and_another_differs(ager: LifespanAger, person: Any) -> None:
    first, again, other = (ager.age(person, 25, 30, "male", seed=seed).image for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_noise_of_the_last_steps_does_not_depend_on_the_strength(ager: LifespanAger) -> None:
    from agesdk.lifespan_run import draw_noise

    near, far = (resolve(ager.model, 25, age, "male", Overrides()) for age in (40, 75))
    noise_near, noise_far = (draw_noise(ager.model, run, 9) for run in (near, far))
    np.testing.assert_array_equal(noise_near["init_noise_pass2"], noise_far["init_noise_pass2"])
    np.testing.assert_array_equal(noise_near["ancestral_pass1_step0"], noise_far["ancestral_pass1_step1"])


@pytest.mark.parametrize(
    "overrides, target, strength",
    [
        ({}, 30, 0.25),
        ({}, 31, 0.5),
        ({}, 55, 0.5),
        ({}, 56, 0.75),
        ({"one_threshold": True}, 75, 0.5),
        ({"thresholds": (10, 20)}, 35, 0.25),
        ({"thresholds": (10, 20)}, 46, 0.75),
        ({"strength": 0.5}, 30, 0.5),
        ({"addition": "wearing glasses"}, 26, 0.75),
        ({"addition": "wearing glasses", "strength": 0.5}, 26, 0.5),
    ],
)
def test_strength_of_the_first_pass(
    ager: LifespanAger, overrides: dict[str, Any], target: int, strength: float
) -> None:
    run = resolve(ager.model, 25, target, "male", Overrides(**overrides))
    assert run.strength == strength
    assert len(run.schedules["pass1"].steps) == int(4 * strength)


def test_one_threshold_wins_over_a_fixed_strength_and_leaving_it_out_does_not(variant_a: Variant) -> None:
    fixed = replace(variant_a.switch.settings.adaptive_noise, mode="fixed", fixed=0.75)
    model = variant_a.ager(adaptive_noise=fixed).model
    strengths = [
        resolve(model, 25, 28, "male", Overrides(one_threshold=wanted)).strength
        for wanted in (None, False, True)
    ]
    assert strengths == [0.75, 0.75, 0.25]


def test_addition_is_the_prompt_with_the_text_appended(
    variant_a: Variant, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    ager, person = prepared(variant_a, "astronaut", text="graphs")
    request = {"seed": 4, "gender": "male", "source_age": 25, "target_age": 30}
    added = ager.age(person, addition="wearing glasses", **request)
    assert added.settings["prompt"] == "a face image of a 30 years old male, wearing glasses"
    free = ager.age(person, prompt=added.settings["prompt"], strength=0.75, **request)
    np.testing.assert_array_equal(added.image, free.image)
    assert (added.image != ager.age(person, strength=0.75, **request).image).any()


def test_equal_ages_keep_the_clip_embedding(ager: LifespanAger, person: Any) -> None:
    result = ager.age(person, 25, 25, "female", seed=1)
    image = person.clip_features[0] / np.linalg.norm(person.clip_features[0])
    np.testing.assert_allclose(result.clip_embedding, image, atol=1e-6)
    assert result.settings["strength"] == 0.25


@pytest.mark.parametrize("shape", [(700, 533), (533, 700), (300, 411)])
def test_a_picture_that_is_not_square_is_cropped_and_resized_as_published(
    ager: LifespanAger, shape: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    height, width = shape
    side = min(shape)
    left, top = (width - side) // 2, (height - side) // 2
    crop = Image.fromarray(image).crop((left, top, left + side, top + side))
    wanted = np.asarray(crop.resize((512, 512), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(ager.prepare(image).image, wanted)


def test_four_image_svr_takes_four_pictures_whatever_the_first_strength(variant_b: Variant) -> None:
    """And no more, at a strength that is none of AdaNI's; the plain pipeline tells what comes of them."""
    model = variant_b.ager(svr=SvrSettings(0.01, 1.1, (0.25, 0.5, 0.75))).model
    for target, strength, further in ((35, None, [1, 3]), (26, None, [2, 3]), (35, 1.0, [1, 2])):
        run = resolve(model, 25, target, "male", Overrides(strength=strength))
        assert [len(schedule.steps) for schedule in run.extra.values()] == further
        assert run.described(model)["svr_pictures"] == 4


def test_latent_chaining_skips_a_round_trip_of_the_autoencoder(
    variant_a: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    ager = variant_a.ager()
    person = ager.prepare(variant_a.golden["images/astronaut"])
    plain = ager.age(person, 25, 45, "male", seed=8)
    runs = count_runs(ager, monkeypatch)
    chained = ager.age(person, 25, 45, "male", seed=8, latent_chaining=True)
    assert runs["vae_encoder"] == 0 and runs["vae_decoder"] == 1
    assert chained.first_pass_image is None and chained.settings["latent_chaining"]
    assert (chained.image != plain.image).any()


def test_low_memory_drops_the_identity_encoders_and_changes_nothing(variant_b: Variant) -> None:
    image = variant_b.golden["images/texture"]
    usual = variant_b.ager()
    frugal = LifespanAger.load(usual.model.bundle, threads=1, low_memory=True)
    person = frugal.prepare(image)
    assert not {"face_encoder", "clip_image_encoder"} & set(frugal.model.engines._engines)
    result = frugal.age(person, 25, 28, "male", seed=1)
    assert not {"face_encoder", "clip_image_encoder"} & set(frugal.model.engines._engines)
    np.testing.assert_array_equal(result.image, usual.age(usual.prepare(image), 25, 28, "male", seed=1).image)


@pytest.mark.parametrize("text", ["tables", "graphs"])
def test_an_ager_that_is_dropped_leaves_memory_at_once(variant_a: Variant, text: str) -> None:
    ager = variant_a.ager(text=text)
    ager.model.prompts.embed("a face image of a 30 years old male", 30, "male")
    model, engines = weakref.ref(ager.model), weakref.ref(ager.model.engines)
    gc.disable()
    try:
        del ager
        assert model() is None and engines() is None
    finally:
        gc.enable()


def test_identity_is_the_cosine_of_arcface(ager: LifespanAger, person: Any) -> None:
    result = ager.age(person, 25, 30, "male", seed=1)
    identity = result.identity()
    a = person.face_features["embedding"][0]
    b = ager.model.face_features(result.image[None])["embedding"][0]
    assert identity is not None
    assert identity.final == pytest.approx(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), abs=1e-5)
    assert -1.0 <= identity.first_pass <= 1.0


def test_aligned_and_blended(ager: LifespanAger) -> None:
    """The square follows the face, and the photograph changes around the face only."""
    photo = read_image(PORTRAIT)
    person = ager.prepare(photo, align=True)
    assert person.face is not None
    result = ager.age(person, 30, 36, "female", seed=2)
    blended = ager.blend(result)
    assert blended.shape == photo.shape
    changed = (blended != photo).any(axis=2)
    x0, y0, x1, y1 = person.face.bbox
    margin = 0.35 * (x1 - x0)
    rows, columns = np.nonzero(changed)
    assert len(rows) and rows.min() > y0 - margin and rows.max() < y1 + margin
    assert columns.min() > x0 - margin and columns.max() < x1 + margin


def test_saved_with_marks_and_settings(ager: LifespanAger, person: Any, tmp_path: Any) -> None:
    result = ager.age(person, 25, 30, "male", seed=11)
    result.save(tmp_path / "out.png")
    stored = read_settings(tmp_path / "out.png")
    assert stored is not None and stored["seed"] == 11 and stored["target_age"] == 30
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), result.image)
    assert b"trainedAlgorithmicMedia" in (tmp_path / "out.png").read_bytes()


@pytest.mark.parametrize("chaining", [False, True])
def test_progress_counts_to_the_end_and_can_cancel(ager: LifespanAger, person: Any, chaining: bool) -> None:
    seen: list[tuple[int, int, str]] = []
    request = {"seed": 1, "latent_chaining": chaining}
    ager.age(person, 25, 75, "male", progress=lambda *state: seen.append(state), **request)
    assert [done for done, _, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1]
    with pytest.raises(Cancelled):
        ager.age(person, 25, 75, "male", seed=1, progress=lambda *_: False)


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"target_age": 76}, TargetError, "76 is out of range.*10 to 75"),
        ({"source_age": 9}, TargetError, "9 is out of range"),
        ({"target_age": 30.5}, TargetError, "not a whole number"),
        ({"target_age": float("nan")}, TargetError, "not a whole number"),
        ({"target_age": -3}, TargetError, "not a whole number"),
        ({"target_age": "30"}, TargetError, "is a str"),
        ({"gender": "femal"}, UsageError, 'unknown.*Did you mean "female"'),
        ({"strength": 0.0}, TargetError, "strength 0.0 is out of range"),
        ({"identity_strength": 1.5}, TargetError, "identity strength 1.5 is out of range"),
        ({"steps": 0}, UsageError, "0 steps are out of range"),
        ({"strength": 0.1}, UsageError, "run no step at all"),
        ({"seed": -1}, TargetError, "seed -1 is negative"),
        ({"thresholds": (9, 3)}, TargetError, "out of order"),
        ({"addition": "glasses"}, UsageError, "no text encoders"),
        ({"prompt": "a cat"}, UsageError, "no text encoders"),
        ({"prompt": "a cat", "addition": "glasses"}, UsageError, "Both a prompt and an addition"),
        ({"noise": {}, "seed": 1}, UsageError, "Both a seed and noise"),
        ({"noise": {}}, UsageError, "noise vae_sample_pass1 is missing"),
        ({"noise": {"vae_sample_pass1": np.zeros((1, 4, 8, 8))}}, UsageError, "has the shape"),
    ],
)
def test_wrong_arguments_are_told(
    ager: LifespanAger, person: Any, arguments: dict[str, Any], error: type[AgeSDKError], words: str
) -> None:
    request = {"source_age": 25, "target_age": 30, "gender": "female", **arguments}
    with pytest.raises(error, match=words):
        ager.age(person, **request)


def test_a_sweep_with_a_wrong_age_makes_nothing(
    ager: LifespanAger, person: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = count_runs(ager, monkeypatch)
    with pytest.raises(TargetError, match="90 is out of range"):
        ager.sweep(person, 25, [30, 90], "male")
    assert not runs


def test_pictures_that_can_not_be_used(ager: LifespanAger, tmp_path: Any) -> None:
    flat = np.full((300, 300, 3), 128, np.uint8)
    with pytest.raises(FaceError, match="shows no face"):
        ager.prepare(flat, align=True)
    with pytest.raises(UsageError, match="without align"):
        ager.prepare(flat, face=0)
    with pytest.raises(ImageError, match="float64"):
        ager.prepare(flat.astype(float))
    with pytest.raises(ImageError, match="does not exist"):
        ager.prepare(tmp_path / "none.jpg")


@pytest.mark.parametrize("channels", ["grey", "alpha", "16 bits", "turned"])
def test_unusual_pictures_are_read_right(ager: LifespanAger, tmp_path: Any, channels: str) -> None:
    import cv2

    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    if channels == "grey":
        Image.fromarray(image[..., 0]).save(path)
        wanted = np.repeat(image[..., :1], 3, axis=2)
    elif channels == "alpha":
        Image.fromarray(np.dstack([image, np.full((64, 80), 255, np.uint8)])).save(path)
        wanted = image
    elif channels == "16 bits":
        cv2.imwrite(str(path), image[..., ::-1].astype(np.uint16) * 257)
        wanted = image
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(image).save(path, exif=exif)
        wanted = np.rot90(image, -1)
    expected = ager.prepare(np.ascontiguousarray(wanted)).image
    np.testing.assert_array_equal(ager.prepare(path).image, expected)


def test_a_face_of_another_ager_is_refused(variant_a: Variant, person: Any) -> None:
    with pytest.raises(UsageError, match="another ager"):
        variant_a.ager().age(person, 25, 30, "male")


def test_text_that_the_bundle_lacks_is_told(variant_a: Variant) -> None:
    bundle = variant_a.switch
    for lacking, words in (
        ({"text_encoders": False}, "no text encoders"),
        ({"ages": None}, "no prompt tables"),
    ):
        manifest = replace(bundle.manifest, settings=replace(bundle.settings, **lacking))
        text = "graphs" if "text_encoders" in lacking else "tables"
        with pytest.raises(BundleError, match=words):
            LifespanAger.load(Bundle(bundle.path, manifest), text=text)


def test_another_kind_of_bundle_is_refused() -> None:
    with pytest.raises(BundleError, match="lifespan-aging is needed"):
        LifespanAger.load(ROOT / "agesdk/bundles/face-analysis")


def test_public_names() -> None:
    assert agesdk.LifespanAger is LifespanAger
