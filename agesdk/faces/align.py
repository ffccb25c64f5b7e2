"""Alignment: the five points of a face, and the square that aligned data sets of faces are cut to.

As everywhere in `agesdk.faces`, the maps lead from pixels of the aligned picture to pixels of the image,
float64 [2, 3], pixel centres at whole numbers.
"""

from __future__ import annotations

import numpy as np

from agesdk.faces.frames import cut
from agesdk.faces.mesh import EYES, MOUTH_CORNERS, NOSE_TIP


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Left eye, right eye, nose tip, left and right mouth corner of a mesh, float32 [5, 2], pixels.

    landmarks: float [468, 2 or 3], pixels. An eye is the mean of its contour.
    """
    points = np.asarray(landmarks, np.float64)[:, :2]
    eyes = [points[list(contour)].mean(axis=0) for contour in EYES]
    return np.stack([*eyes, points[NOSE_TIP], *points[list(MOUTH_CORNERS)]]).astype(np.float32)


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
    eyes_to_mouth = points[list(MOUTH_CORNERS)].mean(axis=0) - eyes
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
