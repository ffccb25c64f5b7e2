"""Square frames laid over a picture: where a network looks, and where its answer lies in the picture.

A frame is an affine map float64 [2, 3] from frame pixels to image pixels, pixel centres at whole numbers.
"""

from __future__ import annotations

import math
from functools import cached_property

import cv2
import numpy as np

_REDUCED_SIDE = 1024
# Averaging to this many pixels per frame pixel, then interpolating, keeps detail unaliased.
_OVERSAMPLING = 1.25


def make_frame(
    centre: np.ndarray, side: float, size: int, angle: float = 0.0, mirrored: bool = False
) -> np.ndarray:
    """The frame of ``size`` × ``size`` pixels over a square of the picture.

    Parameters
    ----------
    centre:
        float [2], image pixels.
    side:
        Side of the square in image pixels.
    angle:
        Clockwise turn of the square as a viewer sees it, radians.
    mirrored:
        The frame's x axis runs from the square's right to its left.
    """
    step = side / size
    across = np.array([math.cos(angle), math.sin(angle)]) * step
    down = np.array([-across[1], across[0]])
    columns = np.stack([-across if mirrored else across, down], axis=1)
    return np.column_stack([columns, np.asarray(centre, np.float64) - columns @ np.full(2, (size - 1) / 2)])


def frame_step(frame: np.ndarray) -> float:
    """Image pixels per frame pixel."""
    return math.sqrt(abs(float(np.linalg.det(frame[:, :2]))))


def to_image(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Frame pixels [..., 2] as image pixels."""
    return np.asarray(points @ frame[:, :2].T + frame[:, 2])


def cut(image: np.ndarray, frame: np.ndarray, size: int) -> np.ndarray:
    """The picture under a frame, antialiased, uint8 [size, size, 3]; black outside the picture.

    Only the pixels under the frame are read, whatever the size of the picture (uint8 [H, W, 3]).
    """
    corners = to_image(
        frame, np.array([[0, 0], [size - 1, 0], [0, size - 1], [size - 1, size - 1]], np.float64)
    )
    step = frame_step(frame)
    reach = 2 * math.ceil(step) + 2
    height, width = image.shape[:2]
    x0, y0 = (max(0, math.floor(v) - reach) for v in corners.min(0))
    x1, y1 = (min(n, math.ceil(v) + reach + 1) for v, n in zip(corners.max(0), (width, height)))
    if x1 <= x0 or y1 <= y0:
        return np.zeros((size, size, 3), np.uint8)
    region = image[y0:y1, x0:x1]
    local = frame.copy()
    local[:, 2] -= (x0, y0)
    if step > _OVERSAMPLING:
        shrink = _OVERSAMPLING / step
        shrunk = (max(1, round(region.shape[1] * shrink)), max(1, round(region.shape[0] * shrink)))
        factors = np.array([shrunk[0] / region.shape[1], shrunk[1] / region.shape[0]])
        region = cv2.resize(region, shrunk, interpolation=cv2.INTER_AREA)
        local[:, :2] *= factors[:, None]
        local[:, 2] = (local[:, 2] + 0.5) * factors - 0.5
    method = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(region, local, (size, size), flags=method, borderMode=cv2.BORDER_CONSTANT)
    )


class Source:
    """A picture that many frames are cut from: large frames come from a reduced copy, made once when needed.

    image: uint8 [H, W, 3].
    """

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.height, self.width = image.shape[:2]

    def cut(self, frame: np.ndarray, size: int) -> np.ndarray:
        """As the function `cut`. The reduced copy serves while it has more pixels than the frame."""
        scale = _REDUCED_SIDE / max(self.height, self.width)
        if scale > 0.75 or scale * frame_step(frame) < _OVERSAMPLING:
            return cut(self.image, frame, size)
        reduced = self._reduced
        scales = np.array([reduced.shape[1] / self.width, reduced.shape[0] / self.height])
        moved = np.column_stack([frame[:, :2] * scales[:, None], (frame[:, 2] + 0.5) * scales - 0.5])
        return cut(reduced, moved, size)

    @cached_property
    def _reduced(self) -> np.ndarray:
        scale = _REDUCED_SIDE / max(self.height, self.width)
        size = (max(1, round(self.width * scale)), max(1, round(self.height * scale)))
        return np.asarray(cv2.resize(self.image, size, interpolation=cv2.INTER_AREA))
