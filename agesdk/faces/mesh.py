"""Points of the dense mesh by name.

Numbers are MediaPipe FaceMesh's (468 points). "Left" is the viewer's left; pairs are (left, right).
"""

from __future__ import annotations

import math

import numpy as np

EYE_CORNERS = ((33, 133), (362, 263))
"""Both corners of each eye, from the viewer's left to right."""

EYES = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249),
)
"""Contours of the lids, from the outer corner along the upper lid."""

BROWS = ((70, 63, 105, 66, 107, 55, 65, 52, 53, 46), (300, 293, 334, 296, 336, 285, 295, 282, 283, 276))
"""Contours of the eyebrows."""

NOSE_TIP, NOSE_BASE = 4, 2

NOSTRILS = (
    (98, 97, 2, 94, 19, 125, 241, 238, 79, 166, 219, 64),
    (327, 326, 2, 94, 19, 354, 461, 458, 309, 392, 439, 294),
)
"""Contours of the nostrils and the skin between them."""

MOUTH_CORNERS = (61, 291)

LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
"""Outer contour of the lips."""

OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""The outline of the mesh."""

OVAL_TOP = (251, 284, 332, 297, 338, 10, 109, 67, 103, 54, 21)
"""The part of the outline above the temples, from right to left."""

FOREHEAD_TOP, CHIN = 10, 152

OPEN_SKIN = (50, 280, 101, 330, 118, 347, 36, 266, 151, 9, 4, 195, 205, 425)
"""Points on cheeks, nose bridge and lower forehead that hair, beard and glasses seldom cover."""


def eye_centres(landmarks: np.ndarray) -> np.ndarray:
    """Middle of each eye's corners, float64 [2, 2], left eye first; landmarks: float [468, 2+], pixels."""
    points = np.asarray(landmarks, np.float64)[:, :2]
    return np.stack([points[list(corners)].mean(axis=0) for corners in EYE_CORNERS])


def eye_angle(landmarks: np.ndarray) -> float:
    """Clockwise turn of the line through the eyes, radians."""
    left, right = eye_centres(landmarks)
    return math.atan2(right[1] - left[1], right[0] - left[0])


def mouth_centre(landmarks: np.ndarray) -> np.ndarray:
    """Middle of the corners of the mouth, float64 [2], pixels."""
    return np.asarray(np.asarray(landmarks, np.float64)[list(MOUTH_CORNERS), :2].mean(axis=0))
