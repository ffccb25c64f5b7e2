"""Alignment: similarity maps that put a face's eyes and mouth where a network or a data set expects them.

As everywhere in `agesdk.faces`, the maps lead from pixels of the aligned picture to pixels of the image,
float64 [2, 3], pixel centres at whole numbers.
"""

from __future__ import annotations

import numpy as np

from agesdk.faces.frames import cut
from agesdk.faces.pose import rigid_fit

# Left eye, right eye, nose tip, mouth corners in the 112 × 112 picture that ArcFace networks are trained on
# ("ArcFace", Deng et al. 2019; SphereFace's 112 × 96 template, 8 pixels wider on either side).
_ARCFACE_112 = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)

_NOSE_TIP = 4
_MOUTH_CORNERS = (61, 291)
_EYE_CONTOURS = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382),
)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Left eye, right eye, nose tip, left and right mouth corner of a mesh, float32 [5, 2], pixels.

    landmarks: float [468, 2 or 3], pixels. An eye is the mean of its contour.
    """
    points = np.asarray(landmarks, np.float64)[:, :2]
    eyes = [points[list(contour)].mean(axis=0) for contour in _EYE_CONTOURS]
    return np.stack([*eyes, points[_NOSE_TIP], *points[list(_MOUTH_CORNERS)]]).astype(np.float32)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity (scale, turn, shift; no mirroring) that best maps source onto target, float64 [2, 3].

    source, target: float [N, 2], N ≥ 2; least squares.
    """
    scale, rotation, shift = rigid_fit(source, target)
    return np.column_stack([scale * rotation, shift])


def arcface_template(size: int = 112) -> np.ndarray:
    """Where the five points lie in an ArcFace picture of ``size`` pixels, float64 [5, 2]."""
    return np.array(_ARCFACE_112) * (size / 112)


def arcface_transform(keypoints: np.ndarray, size: int = 112) -> np.ndarray:
    """The map from ArcFace's aligned picture to the image; keypoints: float [5, 2] as in `five_points`."""
    return inverse(similarity(keypoints, arcface_template(size)))


def ffhq_transform(landmarks: np.ndarray, size: int = 1024) -> np.ndarray:
    """The map from an FFHQ-style aligned square to the image.

    The square of "A Style-Based Generator Architecture" (Karras et al. 2019, appendix A): as wide as four
    times the eyes' distance or 3.6 times the distance from eyes to mouth, whichever is more, its centre a
    tenth of the latter below the eyes.

    landmarks: float [468, 2 or 3], pixels.
    """
    points = np.asarray(landmarks, np.float64)[:, :2]
    left, right = five_points(points)[:2].astype(np.float64)
    eyes = (left + right) / 2
    eyes_to_mouth = points[list(_MOUTH_CORNERS)].mean(axis=0) - eyes
    across = (right - left) - np.array([-eyes_to_mouth[1], eyes_to_mouth[0]])
    across /= np.linalg.norm(across)
    half = max(2.0 * float(np.linalg.norm(right - left)), 1.8 * float(np.linalg.norm(eyes_to_mouth)))
    step = 2 * half / size
    columns = np.stack([across, [-across[1], across[0]]], axis=1) * step
    return np.column_stack([columns, eyes + 0.1 * eyes_to_mouth - columns @ np.full(2, (size - 1) / 2)])


def inverse(transform: np.ndarray) -> np.ndarray:
    """The inverse of an affine map [2, 3]."""
    columns = np.linalg.inv(transform[:, :2])
    return np.column_stack([columns, -columns @ transform[:, 2]])


def aligned(image: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """The aligned picture that a transform describes, antialiased, uint8 [size, size, 3].

    image: uint8 [H, W, 3]; what lies outside is black.
    """
    return cut(image, transform, size)
