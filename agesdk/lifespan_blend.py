"""The aged face put back into the whole photograph."""

from __future__ import annotations

import cv2
import numpy as np

from agesdk.faces.align import inverse
from agesdk.faces.frames import to_image
from agesdk.faces.paste import add_change, matched_change

_GROWTH = 1.12
"""How far the mask reaches beyond the mesh, which ends at the hairline: hair and beard age too."""

_FEATHER = 0.05
"""Width of the soft rim, as a share of the square's side."""


def face_mask(landmarks: np.ndarray, side: int) -> np.ndarray:
    """Where the aged face replaces the photograph's, float32 [side, side] in 0..1, 0 on the rim.

    landmarks: float [468, 2 or 3], pixels of the square.
    """
    points = np.asarray(landmarks, np.float64)[:, :2]
    hull = cv2.convexHull(points.astype(np.float32)).reshape(-1, 2)
    centre = hull.mean(axis=0)
    grown = np.round(centre + (hull - centre) * _GROWTH).astype(np.int32)
    mask = np.zeros((side, side), np.float32)
    cv2.fillConvexPoly(mask, grown, 1.0)
    sigma = _FEATHER * side
    border = max(2, round(2.5 * sigma))
    mask[:border] = mask[-border:] = mask[:, :border] = mask[:, -border:] = 0.0
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), sigma), np.float32)
    mask[:2] = mask[-2:] = mask[:, :2] = mask[:, -2:] = 0.0
    return mask


def blend(
    picture: np.ndarray, square: np.ndarray, aged: np.ndarray, transform: np.ndarray, landmarks: np.ndarray
) -> np.ndarray:
    """A copy of the photograph with the face aged, in its own colours.

    The difference between aged and source square is added under a soft mask, less the colour drift that the
    autoencoder and the model leave outside it (`agesdk.faces.paste.matched_change`).

    Parameters
    ----------
    picture:
        uint8 [H, W, 3].
    square, aged:
        uint8 [S, S, 3]: before and after.
    transform:
        float64 [2, 3], pixels of the square to pixels of the picture.
    landmarks:
        float [468, 2 or 3], pixels of the picture.
    """
    points = to_image(inverse(transform), np.asarray(landmarks, np.float64)[:, :2])
    mask = face_mask(points, len(square))
    result = picture.copy()
    add_change(result, matched_change(aged, square, mask), mask, transform)
    return result
