"""Zone names, targets and crops: against the table, closed forms, and whatever hypothesis thinks of."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agesdk.errors import AgeSDKError, TargetError, ZoneError
from agesdk.faces.frames import extract_crop, frame_step
from agesdk.faces.zones import (
    GROUPS,
    ZONE_KINDS,
    ZONES,
    Zone,
    crop_transform,
    expand,
    face_scale,
    feather_mask,
    landmarks_in_crop,
    resolve_targets,
)

NAMES = [zone.name for zone in ZONES]
KNOWN = sorted({*NAMES, *ZONE_KINDS, *GROUPS})


def mesh(angle: float = 0.0) -> np.ndarray:
    """468 points with eyes 100 pixels apart and the mouth 80 below, turned by ``angle`` degrees about (300,
    300).
    """
    points = np.random.default_rng(0).uniform(-60, 60, (468, 2))
    for index, place in {
        33: (-65, 0),
        133: (-35, 0),
        362: (35, 0),
        263: (65, 0),
        61: (-25, 80),
        291: (25, 80),
    }.items():
        points[index] = place
    turn = math.radians(angle)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return points @ matrix.T + 300.0


@given(st.dictionaries(st.sampled_from(KNOWN), st.none() | st.floats(0.0, 1.0), min_size=1))
def test_targets_cover_what_is_named_and_the_most_specific_wins(targets: dict[str, float | None]) -> None:
    covered = {zone.name for name in targets for zone in expand(name)}
    try:
        resolved = resolve_targets(targets)
    except TargetError:
        assert all(value is None for name, value in targets.items() if name in NAMES)
        return
    assert {*resolved.scores, *resolved.kept} == covered and not set(resolved.scores) & set(resolved.kept)
    for names in (resolved.scores, resolved.kept):
        assert list(names) == [name for name in NAMES if name in names]
    for name, value in targets.items():
        if name in NAMES:
            assert resolved.scores.get(name) == value and (name in resolved.kept) == (value is None)


@given(
    st.dictionaries(
        st.text(max_size=12), st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.booleans())
    )
)
def test_any_targets_give_a_result_or_a_typed_error(targets: dict[str, object]) -> None:
    try:
        resolved = resolve_targets(targets)  # type: ignore[arg-type]
    except AgeSDKError as error:
        assert str(error)
    else:
        assert all(name in NAMES and 0.0 <= value <= 1.0 for name, value in resolved.scores.items())


@pytest.mark.parametrize(
    "targets, scores, kept",
    [
        (0.4, NAMES, []),
        ({"forehead": 0.4}, ["forehead"], []),
        ({"upper_lip": 0.4, "crows_feet": None}, ["upper_lip"], ["crows_feet_left", "crows_feet_right"]),
        ({"crows_feet_left": 0.4, "crows_feet": None}, ["crows_feet_left"], ["crows_feet_right"]),
        ({"glabella": 0.4, "all": None}, ["glabella"], [name for name in NAMES if name != "glabella"]),
    ],
)
def test_only_zones_set_to_none_are_kept(
    targets: dict[str, float | None] | float, scores: list[str], kept: list[str]
) -> None:
    resolved = resolve_targets(targets)
    assert (list(resolved.scores), list(resolved.kept)) == (scores, kept)


@pytest.mark.parametrize(
    "wrong, hint", [("forhead", "forehead"), ("crows-foot", "crows_feet"), ("nasolabal", "nasolabial")]
)
def test_a_misspelt_zone_is_answered_with_the_nearest(wrong: str, hint: str) -> None:
    with pytest.raises(ZoneError, match=f"Did you mean '{hint}"):
        resolve_targets({wrong: 0.5})


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf, True, "0.5"])
def test_a_target_outside_0_to_1_is_refused(value: object) -> None:
    with pytest.raises(TargetError):
        resolve_targets({"forehead": value})  # type: ignore[dict-item]


def test_face_scale_is_the_larger_of_eye_and_mouth_distance() -> None:
    assert face_scale(mesh()) == pytest.approx(max(100.0, 0.95 * 80.0))


@pytest.mark.parametrize("zone", ZONES, ids=NAMES)
@pytest.mark.parametrize("angle", [0.0, 30.0, -45.0])
def test_crops_turn_with_the_head_and_mirror_the_right_side(zone: Zone, angle: float) -> None:
    landmarks = mesh(angle)
    transform = crop_transform(landmarks, zone)
    assert frame_step(transform) == pytest.approx(zone.side_length * 100.0 / 128)
    assert (np.linalg.det(transform[:, :2]) < 0) == (zone.side == "right")
    upright = landmarks_in_crop(landmarks, transform)
    eyes = upright[[362, 263]].mean(0) - upright[[33, 133]].mean(0)
    assert eyes[1] == pytest.approx(0.0, abs=1e-9)
    assert (eyes[0] < 0) == zone.mirrored
    back = upright @ transform[:, :2].T + transform[:, 2]
    np.testing.assert_allclose(back, landmarks, atol=1e-9)


@pytest.mark.parametrize("factor", [1, 2, 3, 7])
def test_a_crop_of_a_larger_picture_is_its_area_mean(factor: int) -> None:
    small = cv2.GaussianBlur(
        np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8), (0, 0), 2
    )
    large = np.repeat(np.repeat(small, factor, 0), factor, 1)
    offset = (factor - 1) / 2
    transform = np.array([[factor, 0.0, offset + 16 * factor], [0.0, factor, offset + 16 * factor]])
    crop = extract_crop(large, transform, 32)
    assert np.abs(crop.astype(int) - small[16:48, 16:48]).max() <= 2


def test_nothing_changes_outside_the_feather_polygon() -> None:
    for zone in ZONES:
        mask = feather_mask(zone)
        assert mask[0].max() == mask[-1].max() == mask[:, 0].max() == mask[:, -1].max() == 0.0
        assert mask.max() == pytest.approx(1.0) and np.abs(np.diff(mask, axis=0)).max() < 0.12
