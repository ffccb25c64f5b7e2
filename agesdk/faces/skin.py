"""Where a crop shows bare skin: the mesh says where skin should be, the colour says where it is.

The mask confines every edit (eyes, brows, lips, nostrils, hair, beard and glasses stay as they are), weights
the training losses, and tells the model in `conditioned` mode which part of the picture it is to fill in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from agesdk.faces.mesh import (
    BROWS,
    CHIN,
    EYE_CORNERS,
    EYES,
    FOREHEAD_TOP,
    LIPS,
    NOSTRILS,
    OPEN_SKIN,
    OVAL,
    OVAL_TOP,
    eye_centres,
    mouth_centre,
)
from agesdk.faces.smoothing import smooth

_HOLES = (
    *((eye, 0.05) for eye in EYES),
    *((brow, 0.035) for brow in BROWS),
    *((nostril, 0.0) for nostril in NOSTRILS),
)
"""Contours in the skin that are none, filled to their convex hull, and by how much each is grown, in face
scales."""


@dataclass(frozen=True)
class SkinTone:
    """Median skin colour of a face and its spread, in CIELAB (L 0..100, a and b about -128..127)."""

    lightness: float
    a: float
    b: float
    spread: float

    def rgb(self) -> np.ndarray:
        """The colour as float32 [1, 1, 3], 0..255."""
        lab = np.array([[[self.lightness, self.a, self.b]]], np.float32)
        return np.asarray(255.0 * cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))


def skin_tone(image: np.ndarray, landmarks: np.ndarray) -> SkinTone:
    """The skin colour of one face: the median over small patches at mesh points that usually show skin.

    image: uint8 [H, W, 3] RGB; landmarks: float [468, 2 or 3], pixels of ``image``.
    """
    points = np.asarray(landmarks, np.float64)[:, :2]
    half = max(1, round(0.02 * _eye_span(points)))
    height, width = image.shape[:2]
    patches = []
    for index in OPEN_SKIN:
        x, y = (int(v) for v in np.clip(np.round(points[index]), 0, [width - 1, height - 1]))
        patch = image[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
        patches.append(patch.reshape(-1, 3).mean(0))
    lab = cv2.cvtColor(np.array(patches, np.float32)[None] / 255, cv2.COLOR_RGB2LAB)[0]
    centre = np.median(lab, axis=0)
    spread = float(np.median(np.linalg.norm(lab[:, 1:] - centre[1:], axis=1)))
    return SkinTone(float(centre[0]), float(centre[1]), float(centre[2]), spread)


def skin_mask(crop: np.ndarray, landmarks: np.ndarray, tone: SkinTone) -> np.ndarray:
    """Share of bare skin per pixel, float32 [size, size] in 0..1, with soft edges.

    crop: uint8 [size, size, 3] RGB; landmarks: float [468, 2] in crop pixels; tone: `skin_tone` of the face.
    """
    size = crop.shape[0]
    scale = _eye_span(landmarks) / 1.4  # about one face scale, in crop pixels
    raised, oval, *outlines = _fixed(
        [
            _raised_oval(landmarks),
            landmarks[list(OVAL)],
            *(_hull(landmarks, contour) for contour, _ in _HOLES),
            landmarks[list(LIPS)],
        ]
    )
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [raised], 255, cv2.LINE_AA, 4)
    for outline, grow in zip(outlines, (*(grow for _, grow in _HOLES), 0.03)):
        cv2.fillPoly(mask, [outline], 0, cv2.LINE_AA, 4)
        if grow:
            cv2.polylines(mask, [outline], True, 0, max(1, round(2 * grow * scale)), cv2.LINE_AA, 4)
    geometry = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), size / 90)
    face = np.zeros((size, size), np.uint8)
    cv2.fillPoly(face, [oval], 255, cv2.LINE_AA, 4)
    inside = cv2.GaussianBlur(face.astype(np.float32) / 255, (0, 0), size / 40)
    return geometry * _skin_likeness(crop, landmarks, tone, inside)


def _eye_span(landmarks: np.ndarray) -> float:
    """Distance of the outer corners of the eyes."""
    return float(np.linalg.norm(landmarks[EYE_CORNERS[1][1]] - landmarks[EYE_CORNERS[0][0]]))


def _hull(landmarks: np.ndarray, contour: tuple[int, ...]) -> np.ndarray:
    return np.asarray(cv2.convexHull(landmarks[list(contour)].astype(np.float32))[:, 0])


def _fixed(outlines: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outlines in OpenCV's fixed-point format with four fractional bits, clipped to what 32 bits hold."""
    points = np.concatenate(outlines)
    points = np.round(np.clip(points, -1e6, 1e6) * 16).astype(np.int32)
    return np.split(points, np.cumsum([len(outline) for outline in outlines])[:-1])


def _raised_oval(landmarks: np.ndarray) -> np.ndarray:
    """The face oval with its top lifted: the mesh ends below many hairlines, colour finds hair."""
    chin_to_top = landmarks[FOREHEAD_TOP] - landmarks[CHIN]
    points = landmarks[list(OVAL)].copy()
    top = {index: i for i, index in enumerate(OVAL)}
    middle = (len(OVAL_TOP) - 1) / 2
    for i, index in enumerate(OVAL_TOP):
        lift = 0.11 * np.cos(0.5 * np.pi * (i - middle) / (middle + 1))
        points[top[index]] += lift * chin_to_top
    return points


def _skin_likeness(crop: np.ndarray, landmarks: np.ndarray, tone: SkinTone, inside: np.ndarray) -> np.ndarray:
    """1 where the colour is the face's skin, 0 where it is hair, frame, lens glare or background; float32,
    soft.

    Judged on a blurred crop: a wrinkle is a thin dark line in skin and must stay inside the mask. Where
    ``inside`` (float32 [size, size], 1 inside the mesh's oval) ends, a fringe is likelier than shadow: the
    test is stricter.
    """
    size = crop.shape[0]
    # The blur leaves nothing that half the pixels could not hold; averaging them is a part of it.
    half = (size // 2, size // 2)
    soft = cv2.GaussianBlur(cv2.resize(crop, half, interpolation=cv2.INTER_AREA), (0, 0), size / 100)
    inside = cv2.resize(inside, half, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(soft.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    chroma = np.hypot(lab[..., 1] - tone.a, lab[..., 2] - tone.b)
    chroma_limit = 15.0 + 1.2 * tone.spread
    darkest = tone.lightness * (0.40 + 0.35 * (1.0 - inside))
    outside = np.maximum(
        chroma / chroma_limit, 1.0 + (darkest - lab[..., 0]) / (0.25 * tone.lightness + 1e-6)
    )
    # Skin in shade stays red; beards, grey frames and tinted glass are less so, by 0.12 to 0.22 in the log of
    # red over green (of pale skin, grey is not: there its lightness decides). Highlights are pale, and skin.
    own, expected, shade = _redness(soft, tone)
    paler = (expected - own) * np.clip((1.0 - shade) / 0.1, 0.0, 1.0)
    outside = np.maximum(outside, 1.05 + (paler - 0.17) / 0.25)
    likeness = cv2.resize(np.clip((1.25 - outside) / 0.4, 0.0, 1.0), (size, size))
    frames = _frames(crop, landmarks, tone)
    if frames is not None:
        likeness *= 1.0 - frames
    solid = cv2.morphologyEx(likeness, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    return cv2.GaussianBlur(solid, (0, 0), size / 64)


def _frames(crop: np.ndarray, landmarks: np.ndarray, tone: SkinTone) -> np.ndarray | None:
    """1 on thin things far brighter or darker than what is around them, float32 [size, size]: frames, hair.
    None if there are none.

    The contrast is relative, a difference of log-luminance: most wrinkles stay below 0.35, most highlights on
    dark skin below 0.55, and frames reach 1. The folds of old skin are deeper, but light in a fold comes from
    skin and leaves it as red as skin or redder. So a dark line of that hue is skin, unless it is as dark as
    frames and hair are.
    """
    size = crop.shape[0]
    luminance = np.log(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32) + 8.0)
    fine = cv2.GaussianBlur(luminance, (0, 0), size / 128)
    contrast = fine - smooth(luminance, size / 20)
    strong = (contrast < -0.42) | (contrast > 0.55)
    if not strong.any():
        return None
    deepest = np.where(_height(landmarks, size) > 0.55, np.float32(-0.9), np.float32(-0.7))
    fold = (contrast < 0.0) & (contrast > deepest)
    strong &= ~(fold & _is_red_as(crop, tone))
    grown = cv2.dilate(strong.astype(np.float32), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    return np.asarray(cv2.GaussianBlur(grown, (0, 0), size / 90), np.float32)


def _height(landmarks: np.ndarray, size: int) -> np.ndarray:
    """How far down the face each pixel lies: 0 at the eyes, 1 at the mouth; float32 [size, size]."""
    eyes = eye_centres(landmarks).mean(0)
    down = mouth_centre(landmarks) - eyes
    x, y = ((np.arange(size) - middle) * part for middle, part in zip(eyes, down / max(down @ down, 1e-6)))
    return np.asarray(x + y[:, None], np.float32)


def _is_red_as(crop: np.ndarray, tone: SkinTone) -> np.ndarray:
    """Whether each pixel is about as red as skin in as much shade, bool [size, size]; grey never is. No blur
    before: it would give a hair the red of the skin beside it.
    """
    own, expected, _ = _redness(crop, tone)
    return np.asarray(own > np.maximum(expected - 0.1, 0.03))


def _redness(crop: np.ndarray, tone: SkinTone) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log of red over green of each pixel, the same of skin in as much shade, and that shade: lightness over
    the skin's; each float32 [size, size].

    Shade scales red and green alike, so the skin's colour is scaled to the pixel's lightness.
    """
    colour = tone.rgb()
    red, green, _ = colour[0, 0]
    shade = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) / np.maximum(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), 1.0)
    pixels = crop.astype(np.float32) + 8.0
    expected = np.log((shade * red + 8.0) / (shade * green + 8.0))
    return np.log(pixels[..., 0] / pixels[..., 1]), expected, shade


def blur_inside(crop: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    """The crop with its skin blurred and the rest as it is, uint8 [size, size, 3].

    A normalised convolution, so that neither hair nor lips bleed into the blurred skin. ``sigma`` in pixels.
    """
    weight = mask[..., None]
    norm = smooth(mask, sigma)[..., None]
    mixed = smooth(crop * weight, sigma)
    mixed /= np.maximum(norm, 1e-4)
    mixed -= crop
    mixed *= np.where(norm > 1e-3, weight, np.float32(0.0))
    mixed += crop
    return np.clip(np.rint(mixed, out=mixed), 0, 255, out=mixed).astype(np.uint8)
