"""The table of face zones, their crops, and how a caller names them.

A zone is a square crop around a point of the face mesh, with a side in multiples of the *face scale* (the
larger of the distance between the eyes and 0.95 × the distance from the eyes to the mouth), turned upright
with the head's roll. Zones of the right half of the picture are mirrored, so that a model sees one kind of
nasolabial fold only. Landmark numbers are MediaPipe FaceMesh's (468 points). "left" and "right" are sides of
the picture, as a viewer sees them.

Zones follow LDLA ("Locally Controlled Face Aging with Latent Diffusion Models"), section 3.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from agesdk.errors import TargetError, ZoneError
from agesdk.faces.frames import make_frame
from agesdk.faces.mesh import eye_angle, eye_centres, mouth_centre

Side = Literal["left", "right", "centre"]
Targets = Mapping[str, "float | None"] | float

CROP_SIZE = 128
"""Side of a zone crop in pixels (LDLA: 128 × 128)."""

# The octagon inside which a crop may change, as fractions of the crop's side.
_OCTAGON = (
    (0.25, 0.015),
    (0.75, 0.015),
    (0.985, 0.25),
    (0.985, 0.75),
    (0.75, 0.985),
    (0.25, 0.985),
    (0.015, 0.75),
    (0.015, 0.25),
)
FEATHER = 0.14
"""Width of the ramp from untouched to fully treated, as a share of the crop's side: wide enough that a
treated zone has no outline in untreated skin, narrow enough that zones treated together leave no skin between
them as it was."""


@dataclass(frozen=True)
class Zone:
    """One zone of the face.

    ``anchors`` are the mesh points whose weighted mean is the crop's centre; ``offset`` moves it by multiples
    of the face scale, outward from the face's middle line (or right, for a central zone) and down;
    ``side_length`` is the crop's side in face scales; ``feather`` the polygon, in fractions of the crop,
    outside which nothing changes.
    """

    name: str
    kind: str
    side: Side
    anchors: tuple[tuple[int, float], ...]
    side_length: float
    offset: tuple[float, float] = (0.0, 0.0)
    groups: tuple[str, ...] = ("all",)
    feather: tuple[tuple[float, float], ...] = _OCTAGON

    @property
    def mirrored(self) -> bool:
        """Whether the crop is flipped left to right before a model sees it."""
        return self.side == "right"


def _mean(*points: int) -> tuple[tuple[int, float], ...]:
    return tuple((point, 1.0 / len(points)) for point in points)


def _pair(
    kind: str,
    left: tuple[int, ...],
    right: tuple[int, ...],
    side_length: float,
    offset: tuple[float, float],
    half: str,
) -> tuple[Zone, Zone]:
    return (
        Zone(f"{kind}_left", kind, "left", _mean(*left), side_length, offset, ("all", half, "left")),
        Zone(f"{kind}_right", kind, "right", _mean(*right), side_length, offset, ("all", half, "right")),
    )


ZONES: tuple[Zone, ...] = (
    Zone("forehead", "forehead", "centre", ((151, 0.3), (10, 0.7)), 1.35, groups=("all", "top")),
    Zone("glabella", "glabella", "centre", ((9, 0.6), (8, 0.4)), 0.80, groups=("all", "top")),
    Zone("interocular", "interocular", "centre", _mean(6), 0.66, groups=("all", "top")),
    *_pair("crows_feet", (33,), (263,), 0.78, (0.22, 0.03), "top"),
    *_pair("under_eye", (33, 133), (263, 362), 0.80, (0.0, 0.30), "top"),
    *_pair("nasolabial", (205, 206, 216, 203), (425, 426, 436, 423), 0.92, (-0.02, 0.04), "bottom"),
    Zone("upper_lip", "upper_lip", "centre", _mean(164), 0.74, (0.0, 0.04), groups=("all", "bottom")),
    *_pair("mouth_corner", (61,), (291,), 0.78, (0.06, 0.14), "bottom"),
)

ZONE_KINDS: tuple[str, ...] = tuple(dict.fromkeys(zone.kind for zone in ZONES))
GROUPS: tuple[str, ...] = ("all", "top", "bottom", "left", "right")


def _unknown(name: str) -> ZoneError:
    known = tuple(dict.fromkeys([*(zone.name for zone in ZONES), *ZONE_KINDS, *GROUPS]))
    close = difflib.get_close_matches(
        str(name).lower().replace("-", "_").replace("'", ""), known, n=1, cutoff=0.5
    )
    hint = f"Did you mean '{close[0]}'?" if close else f"Known are {', '.join(known)}."
    return ZoneError(f"'{name}' is not a face zone.", fix=hint)


def expand(name: str) -> tuple[Zone, ...]:
    """The zones behind a zone's name, a kind ("crows_feet" is both sides) or a group ("top", "left", "all").

    Raises `ZoneError` with the nearest known name.
    """
    key = str(name).strip().lower().replace("-", "_")
    found = tuple(zone for zone in ZONES if key in (zone.name, zone.kind) or key in zone.groups)
    if not found:
        raise _unknown(name)
    return found


@dataclass(frozen=True)
class ResolvedTargets:
    """What is to become of every zone that a caller named; the others are neither treated nor protected.

    Attributes
    ----------
    scores:
        Target score in 0..1 by zone name, in table order.
    kept:
        Zones set to None, in table order: they stay as they are, under the treated neighbours' overlap too.
    """

    scores: dict[str, float]
    kept: tuple[str, ...] = ()


def resolve_targets(targets: Targets) -> ResolvedTargets:
    """Targets by zone from what a caller writes.

    ``targets`` is one number for all zones, or a mapping from zone names, kinds or groups to scores in 0..1
    or ``None`` (stays as it is). The more specific name wins whatever the order: a group is overridden by a
    smaller group, a group by a kind, a kind by a zone. Raises `ZoneError` for an unknown name, `TargetError`
    for a score that is not a number in 0..1 or when no zone is left to treat.
    """
    mapping: Mapping[str, float | None] = targets if isinstance(targets, Mapping) else {"all": targets}
    chosen: dict[str, tuple[int, float | None]] = {}
    for name, value in mapping.items():
        zones = expand(name)
        score = None if value is None else _score(name, value)
        for zone in zones:
            if zone.name not in chosen or len(zones) <= chosen[zone.name][0]:
                chosen[zone.name] = (len(zones), score)
    resolved = {zone.name: chosen[zone.name][1] for zone in ZONES if zone.name in chosen}
    scores = {name: score for name, score in resolved.items() if score is not None}
    if not scores:
        raise TargetError(
            "No zone has a target.",
            fix="Give at least one, such as {'forehead': 0.8}, or one number for all.",
        )
    return ResolvedTargets(scores, tuple(name for name, score in resolved.items() if score is None))


def _score(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TargetError(
            f"The target of '{name}' is {value!r}, not a number.", fix="Give a score from 0 to 1, or None."
        )
    score = float(value)
    if not 0.0 <= score <= 1.0:  # also refuses NaN
        hint = f"Did you mean {score / 100:g}? " if 1.0 < score <= 100.0 else ""
        raise TargetError(
            f"The target of '{name}' is {score:g}, outside 0..1.", fix=f"{hint}Give a score from 0 to 1."
        )
    return score


def face_scale(landmarks: np.ndarray) -> float:
    """Face scale in pixels: max(distance of the eye centres, 0.95 × distance from their middle to the
    mouth's).

    landmarks: float [468, 2 or 3], pixels. Either distance shrinks when the head turns; the larger one stays.
    """
    left, right = eye_centres(landmarks)
    mouth = mouth_centre(landmarks)
    return float(max(np.linalg.norm(right - left), 0.95 * np.linalg.norm(mouth - (left + right) / 2)))


def crop_transform(
    landmarks: np.ndarray, zone: Zone, size: int = CROP_SIZE, margin: float = 1.0
) -> np.ndarray:
    """The affine map from crop pixels to image pixels, float64 [2, 3], pixel centres at whole numbers.

    landmarks: float [468, 2 or 3], image pixels. ``margin`` widens the crop (1.25: a quarter more around the
    same centre). A mirrored zone's map has a negative determinant.
    """
    points = np.asarray(landmarks, np.float64)[:, :2]
    scale, angle = face_scale(points), eye_angle(points)
    across = np.array([math.cos(angle), math.sin(angle)])
    down = np.array([-across[1], across[0]])
    outward = -across if zone.side == "left" else across
    centre = sum((weight * points[index] for index, weight in zone.anchors), np.zeros(2))
    centre = centre + scale * (zone.offset[0] * outward + zone.offset[1] * down)
    return make_frame(centre, margin * zone.side_length * scale, size, angle, zone.mirrored)


def landmarks_in_crop(landmarks: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Image landmarks in the crop's pixels, float64 [468, 2]."""
    points = np.asarray(landmarks, np.float64)[:, :2]
    return (points - transform[:, 2]) @ np.linalg.inv(transform[:, :2]).T


@lru_cache(maxsize=64)
def feather_mask(zone: Zone, size: int = CROP_SIZE) -> np.ndarray:
    """How much each crop pixel may change, float32 [size, size] in 0..1: 0 outside the feather polygon, 1
    well inside.

    The ramp is a raised cosine over `FEATHER` of the side, so that neither the edit nor its gradient has an
    edge.
    """
    polygon = np.round(np.array(zone.feather) * size).astype(np.int32)
    inside = cv2.fillPoly(np.zeros((size, size), np.uint8), [polygon], 1)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ramp = np.clip(distance / (FEATHER * size), 0.0, 1.0)
    mask = (0.5 - 0.5 * np.cos(np.pi * ramp)).astype(np.float32)
    mask.setflags(write=False)
    return mask
