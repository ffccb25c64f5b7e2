"""Square frames laid over a picture: where a network looks, and where its answer lies in the picture.

A frame is an affine map float64 [2, 3] from frame pixels to image pixels, pixel centres at whole numbers.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

# From this many pixels per frame pixel on, interpolation alone aliases: they are averaged first, to a little
# more than the frame has.
_ALIASING, _OVERSAMPLING = 1.6, 1.25


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
    step = float(side) / size
    down_x, down_y = -math.sin(angle) * step, math.cos(angle) * step
    across_x, across_y = (-down_y, down_x) if mirrored else (down_y, -down_x)
    middle = (size - 1) / 2
    return np.array(
        [
            [across_x, down_x, float(centre[0]) - middle * (across_x + down_x)],
            [across_y, down_y, float(centre[1]) - middle * (across_y + down_y)],
        ]
    )


def frame_step(frame: np.ndarray) -> float:
    """Image pixels per frame pixel."""
    (a, b, _), (c, d, _) = frame.tolist()
    return math.sqrt(abs(a * d - b * c))


def to_image(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Frame pixels [..., 2] as image pixels."""
    return np.asarray(points @ frame[:, :2].T + frame[:, 2])


def cut(image: np.ndarray, frame: np.ndarray, size: int) -> np.ndarray:
    """The picture under a frame as a network of faces is used to it: antialiased, black outside the picture,
    uint8 [size, size, 3].

    Only the pixels under the frame are read, whatever the size of the picture (uint8 [H, W, 3]).
    """
    low, high = _extent(frame, size)
    step = frame_step(frame)
    reach = 2 * math.ceil(step) + 2
    height, width = image.shape[:2]
    x0, y0 = (max(0, math.floor(v) - reach) for v in low)
    x1, y1 = (min(n, math.ceil(v) + reach + 1) for v, n in zip(high, (width, height)))
    if x1 <= x0 or y1 <= y0:
        return np.zeros((size, size, 3), np.uint8)
    region = image[y0:y1, x0:x1]
    local = np.column_stack([frame[:, :2], frame[:, 2] - (x0, y0)])
    if step > _ALIASING:
        shrink = _OVERSAMPLING / step
        region, local = _shrunk(
            region, local, round(region.shape[1] * shrink), round(region.shape[0] * shrink)
        )
    method = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(region, local, (size, size), flags=method, borderMode=cv2.BORDER_CONSTANT)
    )


def extract_crop(image: np.ndarray, frame: np.ndarray, size: int) -> np.ndarray:
    """The picture under a frame as an edit needs it: sharper than `cut` (cubic, or averaged from several
    samples a pixel), outside the picture its edge repeats, so that no black bleeds into what is pasted back.

    image: uint8 [H, W, 3]; uint8 [size, size, 3]. Only the pixels under the frame are read.
    """
    low, high = _extent(frame, size)
    step = frame_step(frame)
    reach = math.ceil(2 * step) + 2
    height, width = image.shape[:2]
    x0, y0 = (int(v) for v in np.clip(np.floor(low) - reach, 0, [width - 1, height - 1]))
    x1, y1 = (int(v) for v in np.clip(np.ceil(high) + reach, [x0 + 1, y0 + 1], [width, height]))
    region = image[y0:y1, x0:x1]
    local = np.column_stack([frame[:, :2], frame[:, 2] - (x0, y0)])
    shrink = int(step // 2)
    if shrink > 1:  # of a very large face, blocks are averaged first: the rest costs the same at any size
        region, local = _shrunk(region, local, region.shape[1] // shrink, region.shape[0] // shrink)
        step = frame_step(local)
    samples = max(1, math.ceil(step))
    fine = local.copy()
    fine[:, :2] /= samples
    fine[:, 2] = local[:, 2] + local[:, :2] @ np.full(2, (1 - samples) / (2 * samples))
    method = cv2.INTER_CUBIC if samples == 1 else cv2.INTER_LINEAR
    crop = cv2.warpAffine(
        region,
        fine,
        (size * samples, size * samples),
        flags=method | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return crop if samples == 1 else cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)


def _extent(frame: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest x and y of a frame's pixel centres in the picture, float64 [2] each."""
    last = size - 1.0
    corners = to_image(frame, np.array([[0, 0], [last, 0], [0, last], [last, last]]))
    return corners.min(axis=0), corners.max(axis=0)


def _shrunk(region: np.ndarray, frame: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A region averaged down to ``width`` × ``height`` (1 at least), and the frame as it lies over that."""
    size = (max(1, width), max(1, height))
    factors = np.array([size[0] / region.shape[1], size[1] / region.shape[0]])
    moved = np.column_stack([frame[:, :2] * factors[:, None], (frame[:, 2] + 0.5) * factors - 0.5])
    return cv2.resize(region, size, interpolation=cv2.INTER_AREA), moved


class Source:
    """A picture that many frames are cut from: large frames come from reduced copies, made once when needed.

    image: uint8 [H, W, 3].
    """

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.height, self.width = image.shape[:2]
        self._halves: dict[int, np.ndarray] = {0: image}

    def cut(self, frame: np.ndarray, size: int) -> np.ndarray:
        """As the function `cut`, from the smallest copy with at least as many pixels as the frame."""
        halvings = math.floor(math.log2(max(frame_step(frame), 1.0)))
        while (
            halvings
            and max(self.height % 2**halvings / self.height, self.width % 2**halvings / self.width) > 0.01
        ):
            halvings -= 1  # what does not fill a block is dropped
        factor = 2**halvings
        moved = np.column_stack([frame[:, :2], frame[:, 2] + 0.5 - 0.5 * factor]) / factor
        return cut(self._halved(halvings), moved, size)

    def _halved(self, times: int) -> np.ndarray:
        """The picture with blocks of 2^times pixels averaged; what is left over at its right and bottom is
        dropped."""
        if times not in self._halves:
            # Of the picture itself: halves of halves would be rounded each time, and upwards.
            height, width = self.height // 2**times, self.width // 2**times
            blocks = self.image[: height * 2**times, : width * 2**times]
            self._halves[times] = np.asarray(
                cv2.resize(blocks, (width, height), interpolation=cv2.INTER_AREA)
            )
        return self._halves[times]
