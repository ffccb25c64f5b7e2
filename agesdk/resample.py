"""Pillow's resizing in numpy, bit for bit: models that were trained on pictures resized with Pillow see the
same.

Pillow resizes 8-bit pictures in two passes, columns first, each with weights rounded to integers of
``PILLOW_BITS`` binary places and each rounded and clipped to 8 bits. torch's antialiased resize of uint8
tensors does the same with weights of fewer places. Both are `Taps`; the exporters write them into graphs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Filter = Literal["bilinear", "bicubic", "lanczos"]

PILLOW_BITS = 22
"""Binary places of Pillow's weights: 32 less 8 of the picture and 2 of head-room."""

_TORCH_LARGEST = 2**15
"""torch's weights are 16-bit integers."""


@dataclass(frozen=True, eq=False)
class Taps:
    """One pass of a resize: ``out[i] = clip(floor(sum_j weights[i][j] * in[starts[i] + j] / 2**bits +
    1/2))``.

    Attributes
    ----------
    starts:
        First input position of every output position.
    weights:
        int64 arrays, one per output position.
    """

    starts: tuple[int, ...]
    weights: tuple[np.ndarray, ...]
    bits: int

    def matrix(self, size: int) -> np.ndarray:
        """The weights as a matrix int64 [outputs, size]."""
        dense = np.zeros((len(self.starts), size), np.int64)
        for row, start, weights in zip(dense, self.starts, self.weights):
            row[start : start + len(weights)] = weights
        return dense


def pillow_taps(size: int, target: int, kind: Filter) -> Taps:
    """The weights with which Pillow resizes ``size`` pixels to ``target``."""
    return _quantised(*_exact_taps(size, target, kind), bits=PILLOW_BITS)


def torch_taps(size: int, target: int, kind: Filter) -> Taps:
    """The weights with which torch resizes uint8 tensors (``interpolate(..., antialias=True)``).

    The binary places are as many as keep the largest weight in 16 bits.
    """
    starts, weights = _exact_taps(size, target, kind)
    largest = max(float(row.max()) for row in weights)
    bits = 0
    while bits < PILLOW_BITS and int(0.5 + largest * 2 ** (bits + 1)) < _TORCH_LARGEST:
        bits += 1
    return _quantised(starts, weights, bits)


def resize(image: np.ndarray, side: int, kind: Filter = "lanczos") -> np.ndarray:
    """Resize a square as ``PIL.Image.resize`` does: uint8 [S, S, 3] to uint8 [side, side, 3].

    (Of pictures that are stretched one way and shrunk the other, some versions of Pillow do the rows first.)
    """
    if image.shape[0] == side:
        return np.ascontiguousarray(image)
    taps = pillow_taps(image.shape[0], side, kind)
    return np.ascontiguousarray(_across(_across(image, taps).transpose(1, 0, 2), taps).transpose(1, 0, 2))


def centred_square(image: np.ndarray) -> np.ndarray:
    """The middle of a picture as wide as its shorter side; the left and upper margin is the smaller one."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def centred_transform(shape: tuple[int, int], side: int) -> np.ndarray:
    """The map from pixels of the middle square, resized to ``side``, to pixels of the picture of that height
    and width, float64 [2, 3]."""
    height, width = shape
    shorter = min(height, width)
    scale = shorter / side
    shift = np.array([(width - shorter) // 2, (height - shorter) // 2]) + 0.5 * scale - 0.5
    return np.column_stack([np.eye(2) * scale, shift])


def _across(image: np.ndarray, taps: Taps) -> np.ndarray:
    """Resize the columns. Sums of 8-bit values times 22-bit weights are exact in float64."""
    out = np.empty((image.shape[0], len(taps.starts), image.shape[2]), np.uint8)
    for i, (start, weights) in enumerate(zip(taps.starts, taps.weights)):
        window = image[:, start : start + len(weights)].astype(np.float64)
        sums = np.tensordot(window, weights.astype(np.float64), axes=([1], [0]))
        out[:, i] = np.clip(np.floor(sums / 2**taps.bits + 0.5), 0.0, 255.0)
    return out


def _exact_taps(size: int, target: int, kind: Filter) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """Weights of every output position, summing to 1: the filter, stretched by the scale when shrinking."""
    filter_function, radius = _FILTERS[kind]
    scale = size / target
    stretch = max(scale, 1.0)
    starts, rows = [], []
    for i in range(target):
        centre = (i + 0.5) * scale
        start = max(int(centre - radius * stretch + 0.5), 0)
        stop = min(int(centre + radius * stretch + 0.5), size)
        row = np.array([filter_function((j - centre + 0.5) / stretch) for j in range(start, stop)])
        starts.append(start)
        rows.append(row / row.sum())
    return tuple(starts), rows


def _quantised(starts: tuple[int, ...], rows: list[np.ndarray], bits: int) -> Taps:
    """Weights rounded to ``bits`` binary places, halves away from zero."""
    scaled = [row * 2.0**bits for row in rows]
    return Taps(starts, tuple(np.trunc(row + np.copysign(0.5, row)).astype(np.int64) for row in scaled), bits)


def _bilinear(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _bicubic(x: float) -> float:
    """Keys' cubic with a = -0.5."""
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0 if x < 2.0 else 0.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3.0) if -3.0 <= x < 3.0 else 0.0


def _sinc(x: float) -> float:
    return math.sin(math.pi * x) / (math.pi * x) if x != 0.0 else 1.0


_FILTERS: dict[str, tuple[Callable[[float], float], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
