"""`ZoneAger` on tiny random models: exact waves, untouched pixels, repeatability, skipping, cancelling,
errors.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

import agesdk
from agesdk.diffusion.schedule import make_schedule
from agesdk.errors import Cancelled, FaceError, TargetError, UsageError, ZoneError
from agesdk.faces.zones import ZONES, crop_transform, feather_mask, resolve_targets
from agesdk.imaging import read_settings
from agesdk.manifest import SourceCurve
from agesdk.zone_aging import zone_change

ALL = [zone.name for zone in ZONES]


@pytest.fixture(scope="module", params=["sd", "small"])
def case(request, portrait):
    """An ager and a face prepared by it, in plain and in conditioned mode."""
    tiny = request.getfixturevalue(request.param)
    ager = tiny.ager()
    return ager, ager.prepare(*portrait)


@pytest.fixture(scope="module")
def small_case(small, portrait):
    ager = small.ager()
    return ager, ager.prepare(*portrait)


@pytest.mark.parametrize("targets", [0.9, {"top": 0.1, "nasolabial": 0.8}])
def test_waves_equal_one_zone_after_the_other(case, targets):
    ager, face = case
    waves = ager.age(face, targets, seed=1)
    single = ager.age(face, targets, seed=1, sequential=True)
    assert len({zone.wave for zone in waves.zones.values()}) < len(
        {zone.wave for zone in single.zones.values()}
    )
    # Bitwise as measured on x86-64 with ONNX Runtime 1.31; a BLAS may order its sums by batch size: one
    # level.
    assert np.abs(waves.image.astype(int) - single.image).max() <= 1
    for name, zone in waves.zones.items():
        assert np.abs(zone.crop.astype(int) - single.zones[name].crop).max() <= 1
        assert zone.score_after == pytest.approx(single.zones[name].score_after, abs=1e-4)


def test_where_a_score_rises_shading_is_held_back_and_where_it_falls_it_is_not(small_case):
    ager, face = small_case
    settings = replace(ager.model.settings, paste="residual", detail_sigma=20.0, rise_sigma=2.0, chroma=1.0)
    plain = np.full((128, 128, 3), 128, np.uint8)
    crop = replace(
        face.crops["forehead"], pixels=plain, round_trip=plain, skin=np.ones((128, 128), np.float32)
    )
    blob = 30.0 * np.exp(-(((np.mgrid[:128, :128] - 63.5) / 8.0) ** 2).sum(0) / 2.0)
    result = np.rint(plain - blob[..., None]).astype(np.uint8)

    def depth(before: float, target: float, **changes: float) -> float:
        change = zone_change(crop, result, before, target, replace(settings, **changes), crop.skin)
        return -float(change[64, 64].mean())

    assert depth(0.8, 0.2) > 20.0 > 10.0 > depth(0.2, 0.8) > 0.0
    assert depth(0.2, 0.8, rise_sigma=None) == pytest.approx(depth(0.8, 0.2), rel=1e-3)
    assert depth(0.2, 0.8, rise_sigma=9.0, smooth_skin_rise_sigma=2.0) == pytest.approx(
        depth(0.2, 0.8), rel=1e-3
    )
    less = depth(0.0, 0.8, amplitude=0.9, smooth_skin_amplitude=0.7)
    assert less == pytest.approx(0.7 * depth(0.0, 0.8), rel=1e-4)


@pytest.mark.parametrize("targets", [{"forehead": 0.8}, {"crows_feet": 0.3, "upper_lip": 0.9}, {"left": 1.0}])
def test_pixels_outside_the_treated_zones_are_identical(case, targets):
    ager, face = case
    result = ager.age(face, targets, seed=2)
    assert result.image.shape == face.image.shape and result.image.dtype == np.uint8
    height, width = face.image.shape[:2]
    allowed = np.zeros((height, width), bool)
    for name in resolve_targets(targets).scores:
        mask = (face.crops[name].paste_mask > 0).astype(np.float32)
        allowed |= cv2.warpAffine(mask, face.crops[name].transform, (width, height)) > 0
    changed = (result.image != face.image).any(axis=2)
    assert changed.any() and allowed.mean() < 0.5
    assert not changed[~allowed].any()


def zone_share(face, name):
    """How much of each pixel belongs to a zone, float32 [H, W]: its feather mask at the picture's scale."""
    zone = next(zone for zone in ZONES if zone.name == name)
    size = face.image.shape[1::-1]
    return cv2.warpAffine(feather_mask(zone), crop_transform(face.face.landmarks, zone), size)


@pytest.mark.parametrize("refine", [False, True])
def test_a_zone_set_to_none_stays_as_it_is_where_its_neighbours_overlap_it(request, portrait, refine):
    ager = request.getfixturevalue("sd" if refine else "small").ager()
    face = ager.prepare(*portrait)
    not_named = ager.age(face, {"interocular": 0.9, "forehead": 0.9}, seed=3, refine=refine)
    kept = ager.age(face, {"interocular": 0.9, "forehead": 0.9, "glabella": None}, seed=3, refine=refine)
    share = zone_share(face, "glabella")
    inside, outside = share == 1.0, share == 0.0
    assert (not_named.image != face.image)[inside].any()  # the neighbours do reach into it
    np.testing.assert_array_equal(kept.image[inside], face.image[inside])
    np.testing.assert_array_equal(kept.image[outside], not_named.image[outside])
    # No seam: every pixel of the rim lies between the two pictures it fades between.
    ends = np.stack([face.image, not_named.image])
    assert (kept.image >= ends.min(axis=0)).all() and (kept.image <= ends.max(axis=0)).all()
    assert list(kept.zones) == ["forehead", "interocular"]
    assert kept.settings["targets"] == {"forehead": 0.9, "interocular": 0.9, "glabella": None}
    # What was written down gives the same picture again, and one zone after the other too.
    again = ager.age(face, kept.settings["targets"], seed=3, refine=refine, sequential=True)
    assert np.abs(again.image.astype(int) - kept.image).max() <= 1


def test_scores_after_are_those_of_the_picture_with_kept_zones(case):
    ager, face = case
    result = ager.age(face, {"glabella": 0.9, "forehead": None}, seed=3)
    crop = face.crops["glabella"].retaken(result.image)
    score = ager.model.scores(ager.model.encode(crop.pixels[None])[0], ["glabella"])[0]
    assert result.zones["glabella"].score_after == pytest.approx(score, abs=1e-5)


def test_a_zone_that_can_not_be_treated_can_be_kept(small, portrait):
    ager = small.ager(zones=("forehead",))
    face = ager.prepare(*portrait)
    result = ager.age(face, {"forehead": 0.9, "glabella": None}, seed=3)
    inside = zone_share(face, "glabella") == 1.0
    np.testing.assert_array_equal(result.image[inside], face.image[inside])


def test_a_seed_repeats_and_another_differs(case):
    ager, face = case
    first, again, other = (ager.age(face, {"glabella": 0.9}, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.image != other.image).any()
    drawn = ager.age(face, {"glabella": 0.9})
    np.testing.assert_array_equal(drawn.image, ager.age(face, {"glabella": 0.9}, seed=drawn.seed).image)


def test_a_face_found_twice_gives_the_same(case, portrait):
    """Nothing that one call leaves in the prepared face changes the next."""
    ager, face = case
    ager.age(face, 0.2, seed=9)
    fresh = ager.prepare(*portrait)
    np.testing.assert_array_equal(ager.age(face, 0.7, seed=4).image, ager.age(fresh, 0.7, seed=4).image)
    assert face.scores == fresh.scores


def test_noise_passed_in_is_the_noise_used(case):
    ager, face = case
    schedule = make_schedule(ager.model.settings.scheduler, 6, 0.5)
    noise = ager.model.draw_noise(schedule, 8)
    seeded = ager.age(face, {"bottom": 0.6}, steps=6, strength=0.5, seed=8)
    passed = ager.age(face, {"bottom": 0.6}, steps=6, strength=0.5, noise=noise)
    np.testing.assert_array_equal(seeded.image, passed.image)
    assert passed.seed is None
    # A zone's noise does not depend on what else is treated.
    alone = ager.age(face, {"upper_lip": 0.6}, steps=6, strength=0.5, seed=8)
    if seeded.zones["upper_lip"].wave == 0:
        np.testing.assert_array_equal(alone.zones["upper_lip"].crop, seeded.zones["upper_lip"].crop)


def test_results_tell_scores_settings_and_timings(case, tmp_path):
    ager, face = case
    result = ager.age(face, {"crows_feet": 0.5, "forehead": 0.25}, seed=7, steps=6, strength=0.5)
    assert list(result.zones) == ["forehead", "crows_feet_left", "crows_feet_right"]
    zone = result.zones["forehead"]
    assert (zone.score_before, zone.target, zone.skipped) == (face.scores["forehead"], 0.25, None)
    assert 0.0 <= zone.score_after <= 1.0 and zone.crop.shape == (128, 128, 3)
    assert result.settings["steps"] == 6 and result.settings["bundle"] == "tiny 1"
    assert {"denoise", "vae_decoder", "paste"} <= set(result.timings.stages)
    for suffix in ("png", "jpg", "webp"):
        path = tmp_path / f"older.{suffix}"
        result.save(path)
        stored = read_settings(path)
        assert stored["seed"] == 7 and stored["targets"]["forehead"] == 0.25
        assert b"compositeWithTrainedAlgorithmicMedia" in path.read_bytes()
    np.testing.assert_array_equal(agesdk.imaging.read_image(tmp_path / "older.png"), result.image)


def test_calibration_chooses_the_score_the_model_is_given(small, portrait):
    curve = ((0.0, 0.2), (0.5, 0.4), (1.0, 1.0))
    calibrated = small.ager(calibration={"forehead": curve})
    straight = small.ager()
    image, face = portrait
    first = calibrated.age(calibrated.prepare(image, face), {"forehead": 0.5}, seed=1)
    second = straight.age(straight.prepare(image, face), {"forehead": 0.4}, seed=1)
    np.testing.assert_array_equal(first.image, second.image)
    assert first.zones["forehead"].target == 0.5


def test_calibration_by_source_depends_on_the_score_before(small):
    low, high = ((0.0, 0.2), (1.0, 0.4)), ((0.0, 0.6), (1.0, 0.8))
    curves = {"forehead": (SourceCurve(0.2, low), SourceCurve(0.6, high))}
    model = small.ager(source_calibration=curves, calibration={"forehead": ((0.0, 0.9), (1.0, 1.0))}).model
    asked = [model.condition_score("forehead", 0.5, before) for before in (0.0, 0.2, 0.3, 0.6, 1.0)]
    assert asked == pytest.approx([0.3, 0.3, 0.4, 0.7, 0.7])
    assert model.condition_score("glabella", 0.5, 0.3) == 0.5


def test_score_calibration_maps_what_scorenet_says(small, portrait):
    curve = ((0.0, 1.0), (1.0, 1.0))
    ager = small.ager(score_calibration={"glabella": curve})
    scores = ager.prepare(*portrait).scores
    assert scores["glabella"] == 1.0 and scores["forehead"] < 1.0


def test_progress_counts_up_to_its_total(small_case):
    ager, face = small_case
    seen = []
    ager.age(
        face, {"top": 0.5}, seed=1, progress=lambda done, total, stage: seen.append((done, total, stage))
    )
    done = [entry[0] for entry in seen]
    assert done == sorted(done) and seen[-1][0] == seen[-1][1]
    assert {entry[1] for entry in seen} == {seen[0][1]} and seen[0][2].startswith("wave 1 of")


@pytest.mark.parametrize("after", [1, 4, 20])
def test_cancelling_leaves_everything_as_it_was(small_case, after):
    ager, face = small_case
    before, scores = face.image.copy(), dict(face.scores)
    calls = []

    def stop(done, total, stage):
        calls.append(done)
        return len(calls) < after

    with pytest.raises(Cancelled):
        ager.age(face, 0.9, seed=1, progress=stop)
    assert len(calls) == after
    np.testing.assert_array_equal(face.image, before)
    assert face.scores == scores


def test_a_covered_zone_and_one_out_of_the_picture_are_skipped_with_a_reason(small, portrait):
    image, face = portrait
    covered = image.copy()
    x0, y0, x1, _ = (int(v) for v in face.bbox)
    eyes = int(face.keypoints[:2, 1].mean())
    covered[max(0, y0 - 100) : eyes - 30, x0 - 60 : x1 + 60] = (20, 90, 40)  # a green hat
    ager = small.ager()
    prepared = ager.prepare(covered, face)
    assert "bare skin" in prepared.skipped["forehead"] and "forehead" not in prepared.scores
    result = ager.age(prepared, {"forehead": 0.9, "nasolabial": 0.5}, seed=1)
    assert "bare skin" in result.zones["forehead"].skipped and result.zones["forehead"].score_after is None
    assert result.zones["nasolabial_left"].skipped is None

    cut = image[: int(face.keypoints[3:, 1].mean())]
    prepared = ager.prepare(cut, face)
    assert "in the picture" in prepared.skipped["mouth_corner_left"]
    result = ager.age(prepared, 0.5, seed=1)
    assert result.image.shape == cut.shape and result.zones["mouth_corner_left"].skipped


def test_zones_the_model_does_not_know_are_skipped_with_a_reason(small, portrait):
    ager = small.ager(zones=("forehead", "glabella"))
    prepared = ager.prepare(*portrait)
    assert set(prepared.scores) == {"forehead", "glabella"}
    assert "does not know" in prepared.skipped["upper_lip"]
    assert "does not know" in ager.age(prepared, 0.5, seed=1).zones["upper_lip"].skipped


@pytest.mark.parametrize("resize, turn", [(0.17, 0), (0.3, 20), (3.0, -15)])
def test_small_large_and_turned_faces(small, portrait, resize, turn):
    """A face of 50 pixels, and one whose crops are shrunk; both are found and changed in place."""
    image, _ = portrait
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1.0)
    image = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    image = cv2.resize(image, None, fx=resize, fy=resize, interpolation=cv2.INTER_AREA)
    ager = small.ager()
    face = ager.prepare(image)
    result = ager.age(face, 0.8, seed=1)
    assert result.image.shape == image.shape
    assert sum(zone.skipped is None for zone in result.zones.values()) >= 10
    assert (result.image != image).any(axis=2).mean() < 0.6


def test_an_ethnicity_is_named_in_the_prompt(sd, portrait):
    ager = sd.ager()
    face = ager.prepare(*portrait)
    plain, named = (ager.age(face, {"forehead": 0.5}, seed=1, ethnicity=who) for who in (None, "Hispanic"))
    assert (plain.image != named.image).any() and named.settings["ethnicity"] == "Hispanic"


def test_the_refiner_works_inside_the_face(sd, portrait):
    ager = sd.ager()
    face = ager.prepare(*portrait)
    plain = ager.age(face, {"forehead": 0.5}, seed=1)
    refined, again = (ager.age(face, {"forehead": 0.5}, seed=1, refine=True) for _ in range(2))
    np.testing.assert_array_equal(refined.image, again.image)
    changed = (refined.image != plain.image).any(axis=2)
    x0, y0, x1, y1 = (round(v) for v in face.face.bbox)
    assert changed.mean() > 0.02
    margin = 6  # two pixels of the refined square
    changed[y0 - margin : y1 + margin, x0 - margin : x1 + margin] = False
    assert not changed.any()


@pytest.mark.parametrize(
    "targets, options, error, text",
    [
        ({"forhead": 0.5}, {}, ZoneError, "forehead"),
        ({"forehead": 1.5}, {}, TargetError, "outside 0..1"),
        ({"forehead": None}, {}, TargetError, "No zone"),
        (0.5, {"strength": 1.2}, TargetError, "strength"),
        (0.5, {"steps": 0}, UsageError, "steps"),
        (0.5, {"guidance_scale": -1.0}, TargetError, "guidance"),
        (0.5, {"guidance_scale": float("nan")}, TargetError, "guidance"),
        (0.5, {"ethnicity": "Hispanic"}, UsageError, "knows none"),
        (0.5, {"ethnicity": " "}, UsageError, "not a name"),
        (0.5, {"ethnicity": 7}, UsageError, "not a name"),
        (0.5, {"ethnicity": "x" * 70_000}, UsageError, "70000 characters"),
        (0.5, {"refine": True}, UsageError, "no refiner"),
        (0.5, {"noise": {}}, UsageError, "missing"),
        (0.5, {"noise": {name: np.zeros((1, 4, 8, 8)) for name in ALL}}, UsageError, "shape"),
        (0.5, {"noise": {}, "seed": 1}, UsageError, "Both"),
        (0.5, {"seed": -1}, TargetError, "seed"),
    ],
)
def test_what_makes_no_sense_is_told(small_case, targets, options, error, text):
    ager, face = small_case
    with pytest.raises(error, match=text):
        ager.age(face, targets, **options)


def test_a_face_of_another_ager_is_told(small, small_case):
    with pytest.raises(UsageError, match="another ager"):
        small.ager().age(small_case[1], 0.5)


def test_pictures_without_a_face_and_wrong_indices_are_told(small, portrait):
    ager = small.ager()
    with pytest.raises(FaceError, match="no face"):
        ager.prepare(np.full((200, 200, 3), 128, np.uint8))
    with pytest.raises(FaceError, match="no face 3"):
        ager.prepare(portrait[0], face=3)


def test_a_bundle_whose_denoiser_is_of_the_other_mode_is_told(small, sd):
    with pytest.raises(agesdk.BundleError, match="takes a mask"):
        small.ager(mode="plain")
    with pytest.raises(agesdk.BundleError, match="does not take a mask"):
        sd.ager(mode="conditioned")


def test_a_bundle_of_another_kind_is_told():
    from agesdk.bundle import Bundle

    with pytest.raises(agesdk.BundleError, match="face-analysis"):
        agesdk.ZoneAger.load(Bundle.open(kind="face-analysis"))


def test_arrays_given_stay_the_callers(small, portrait):
    """Changing the array afterwards changes nothing, and aging does not change the array."""
    image = portrait[0].copy()
    ager = small.ager()
    face = ager.prepare(image, replace(portrait[1]))
    ager.age(face, 0.9, seed=1)
    np.testing.assert_array_equal(image, portrait[0])


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"seed": True}, "seed is True"),
        ({"strength": "x", "seed": 1}, "strength is 'x'"),
        ({"guidance_scale": "a", "seed": 1}, "guidance scale is 'a'"),
    ],
)
def test_settings_of_another_type_are_refused_by_name(small_case, settings, told):
    ager, face = small_case
    with pytest.raises(UsageError, match=told):
        ager.age(face, 0.5, **settings)
