"""The skin mask on the packaged portrait with things painted over it, of light and of dark skin."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from agesdk.faces import Face
from agesdk.faces.frames import extract_crop
from agesdk.faces.mesh import BROWS, EYES, LIPS
from agesdk.faces.skin import blur_inside, skin_mask, skin_tone
from agesdk.faces.zones import ZONES, crop_transform, landmarks_in_crop

SIZE = 128
ZONE_BY_NAME = {zone.name: zone for zone in ZONES}


def darkened(image: np.ndarray, lightness: float) -> np.ndarray:
    """The picture with its CIELAB lightness scaled: the same face with darker skin."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab[..., 0] *= lightness
    return np.rint(np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1) * 255).astype(np.uint8)


@pytest.fixture(params=[1.0, 0.45], ids=["light", "dark"])
def picture(request: pytest.FixtureRequest, portrait: np.ndarray) -> np.ndarray:
    return darkened(portrait, request.param)


def masked(picture: np.ndarray, face: Face, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crop, mesh in the crop and skin mask of a zone; the tone is that of the whole picture."""
    transform = crop_transform(face.landmarks, ZONE_BY_NAME[name], SIZE)
    crop = extract_crop(picture, transform, SIZE)
    points = landmarks_in_crop(face.landmarks, transform)
    return crop, points, skin_mask(crop, points, skin_tone(picture, face.landmarks))


def filled(outline: np.ndarray) -> np.ndarray:
    inside = np.zeros((SIZE, SIZE), np.uint8)
    return (
        cv2.fillPoly(inside, [np.round(cv2.convexHull(outline.astype(np.float32))).astype(np.int32)], 1) > 0
    )


def test_the_tone_is_the_median_of_a_flat_skin() -> None:
    landmarks = np.random.default_rng(0).uniform(20, 180, (468, 2))
    landmarks[[33, 263]] = [[50, 100], [150, 100]]
    image = np.full((200, 200, 3), (180, 130, 110), np.uint8)
    lab = cv2.cvtColor(image[:1, :1].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, 0]
    tone = skin_tone(image, landmarks)
    assert (tone.lightness, tone.a, tone.b) == pytest.approx(tuple(lab), abs=1e-3)
    assert tone.spread == pytest.approx(0.0, abs=1e-3)


def test_the_tone_withstands_covered_points_and_a_face_that_leaves_the_picture(
    portrait: np.ndarray, face: Face
) -> None:
    tone = skin_tone(portrait, face.landmarks)
    covered = portrait.copy()
    x, y = (int(value) for value in face.landmarks[50, :2])
    covered[y - 20 : y + 20, x - 20 : x + 20] = (0, 255, 0)
    assert skin_tone(covered, face.landmarks).lightness == pytest.approx(tone.lightness, abs=4.0)
    left = portrait[:, int(face.landmarks[4, 0]) :]
    moved = face.landmarks[:, :2] - np.array([face.landmarks[4, 0], 0])
    assert np.isfinite(skin_tone(left, moved).lightness)


@pytest.mark.parametrize("name", ["under_eye_left", "nasolabial_right", "glabella"])
def test_open_skin_is_skin_whatever_its_lightness(picture: np.ndarray, face: Face, name: str) -> None:
    _, _, mask = masked(picture, face, name)
    assert mask.dtype == np.float32 and mask.shape == (SIZE, SIZE)
    assert mask.min() >= 0.0 and mask.max() <= 1.0
    assert mask[56:72, 56:72].mean() > 0.9


def test_eyes_brows_and_lips_are_never_skin(picture: np.ndarray, face: Face) -> None:
    for name, contours in (
        ("under_eye_left", [EYES[0]]),
        ("crows_feet_right", [EYES[1]]),
        ("glabella", BROWS),
        ("upper_lip", [LIPS]),
    ):
        _, points, mask = masked(picture, face, name)
        for contour in contours:
            inside = filled(points[list(contour)])
            assert inside.sum() > 50, name
            assert mask[inside].mean() < 0.12, name


def test_masks_of_light_and_dark_skin_agree(portrait: np.ndarray, face: Face) -> None:
    for name in ("forehead", "under_eye_right", "nasolabial_left", "mouth_corner_left"):
        light, dark = (masked(darkened(portrait, share), face, name)[2] for share in (1.0, 0.45))
        assert np.abs(light - dark).mean() < 0.1, name


@pytest.mark.parametrize(
    "colour", [(25, 18, 14), (200, 40, 40), (60, 90, 200)], ids=["dark hair", "red scarf", "blue mask"]
)
def test_what_covers_skin_is_left_out(picture: np.ndarray, face: Face, colour: tuple[int, ...]) -> None:
    crop, points, before = masked(picture, face, "nasolabial_left")
    covered = crop.copy()
    if max(colour) < 60:  # hair on dark skin is still darker
        colour = tuple(value // 3 for value in colour)
    covered[30:98, 64:] = colour
    tone = skin_tone(picture, face.landmarks)
    mask = skin_mask(covered, points, tone)
    assert before[40:88, 74:].mean() > 0.6
    assert mask[40:88, 74:118].mean() < 0.1
    assert mask[40:88, 30:50].mean() == pytest.approx(before[40:88, 30:50].mean(), abs=0.1)


@pytest.mark.parametrize(
    "lightness, frame",
    [(1.0, 8), (0.45, 4), (0.45, 255)],
    ids=["on light", "on dark", "metal on dark"],
)
def test_thin_frames_of_glasses_are_left_out_and_wrinkles_are_not(
    portrait: np.ndarray, face: Face, lightness: float, frame: int
) -> None:
    picture = darkened(portrait, lightness)
    crop, points, before = masked(picture, face, "under_eye_left")
    tone = skin_tone(picture, face.landmarks)
    line = np.zeros((SIZE, SIZE), np.float32)
    cv2.line(line, (10, 84), (118, 84), 1.0, 3)
    row = np.s_[83:86, 44:84]
    assert before[row].mean() > 0.8
    framed = np.where(line[..., None] > 0, frame, crop).astype(np.uint8)
    assert skin_mask(framed, points, tone)[row].mean() < 0.25
    shade = 1.0 - 0.22 * cv2.GaussianBlur(line, (0, 0), 1.0)  # as dark as a deep fold
    wrinkled = np.rint(crop * shade[..., None]).astype(np.uint8)
    assert skin_mask(wrinkled, points, tone)[row].mean() > 0.8


@pytest.mark.parametrize("lightness", [1.0, 0.45, 0.25])
@pytest.mark.parametrize("zone, row, depth", [("under_eye_left", 84, 0.5), ("nasolabial_left", 64, 0.65)])
def test_deep_folds_of_skins_own_hue_are_skin(
    portrait: np.ndarray, face: Face, lightness: float, zone: str, row: int, depth: float
) -> None:
    picture = darkened(portrait, lightness)
    crop, points, before = masked(picture, face, zone)
    line = np.zeros((SIZE, SIZE), np.float32)
    cv2.line(line, (10, row), (118, row), 1.0, 3)
    shade = 1.0 - depth * cv2.GaussianBlur(line, (0, 0), 0.7)[..., None]
    window = np.s_[row - 1 : row + 2, 44:84]
    assert before[window].mean() > 0.8
    folded = np.rint(crop * shade).astype(np.uint8)
    assert skin_mask(folded, points, skin_tone(picture, face.landmarks))[window].mean() > 0.8


@pytest.mark.parametrize("zone, row", [("under_eye_left", 84), ("nasolabial_left", 64)])
@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("colour", [(8, 8, 8), (40, 40, 40)])
@pytest.mark.parametrize("grey", [False, True], ids=["in colour", "black and white"])
def test_hair_and_grey_frames_are_not_taken_for_folds(
    portrait: np.ndarray, face: Face, zone: str, row: int, width: int, colour: tuple[int, ...], grey: bool
) -> None:
    picture = portrait
    if grey:
        picture = np.repeat(cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    crop, points, before = masked(picture, face, zone)
    strand = crop.copy()
    cv2.line(strand, (10, row), (118, row), colour, width)
    window = np.s_[row : row + 1, 44:84]
    assert before[window].mean() > 0.8
    assert skin_mask(strand, points, skin_tone(picture, face.landmarks))[window].mean() < 0.4


@pytest.mark.parametrize("hue, is_skin", [((0.95, 1.0, 1.1), False), ((0.9, 1.05, 0.8), False), (None, True)])
def test_shade_is_skin_when_it_is_red_as_skin(
    picture: np.ndarray, face: Face, hue: tuple[float, ...] | None, is_skin: bool
) -> None:
    """A cheek covered with stubble's bluish grey, a lens's green or shade, each at 0.75 of its lightness."""
    crop, points, mask = masked(picture, face, "nasolabial_left")
    y, x = (int(v) for v in np.argwhere(mask > 0.99).mean(axis=0))
    window = (slice(y - 12, y + 12), slice(x - 12, x + 12))
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[window].astype(np.float32)
    covered = crop.copy()
    shade = crop[window] if hue is None else grey[..., None] * np.array(hue, np.float32)
    covered[window] = np.rint(0.75 * shade)
    left = skin_mask(covered, points, skin_tone(picture, face.landmarks))[y, x]
    assert left > 0.9 if is_skin else left < 0.1


def test_a_black_and_white_photo_has_skin(portrait: np.ndarray, face: Face) -> None:
    grey = cv2.cvtColor(cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    for name in ("forehead", "nasolabial_left", "mouth_corner_right"):
        there, known = masked(grey, face, name)[2].mean(), masked(portrait, face, name)[2].mean()
        assert there > 0.9 * known


def test_skin_ends_with_the_face(picture: np.ndarray, face: Face) -> None:
    transform = crop_transform(face.landmarks, ZONE_BY_NAME["crows_feet_left"], SIZE, margin=4.0)
    crop = np.full((SIZE, SIZE, 3), np.round(picture[tuple(face.landmarks[50, 1::-1].astype(int))]), np.uint8)
    mask = skin_mask(crop, landmarks_in_crop(face.landmarks, transform), skin_tone(picture, face.landmarks))
    # All of the crop has the colour of the cheek; what lies beside the mesh is not this face's skin.
    assert mask[:, :8].max() == 0.0 and mask.max() > 0.9


def test_blurring_stays_inside_the_mask_and_takes_no_colour_from_beyond() -> None:
    crop = np.zeros((SIZE, SIZE, 3), np.uint8)
    crop[:, :64] = (0, 0, 255)
    crop[:, 64:] = (200, 120, 100)
    crop[:, 64:] += np.random.default_rng(0).integers(0, 40, (SIZE, 64, 1), dtype=np.uint8)
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[:, 64:] = 1.0
    blurred = blur_inside(crop, mask, 7.0)
    np.testing.assert_array_equal(blurred[:, :64], crop[:, :64])
    inside = blurred[:, 64:].astype(float)
    assert inside.std(axis=(0, 1)).max() < 2.0
    np.testing.assert_allclose(inside.mean(axis=(0, 1)), crop[:, 64:].mean(axis=(0, 1)), atol=1.5)
    np.testing.assert_array_equal(blur_inside(crop, np.zeros_like(mask), 7.0), crop)


def test_half_a_mask_blends_half() -> None:
    crop = np.zeros((32, 32, 3), np.uint8)
    crop[::2] = 100
    half = np.full((32, 32), 0.5, np.float32)
    np.testing.assert_allclose(blur_inside(crop, half, 5.0)[8:24].astype(int), 25 + crop[8:24] / 2, atol=1)
