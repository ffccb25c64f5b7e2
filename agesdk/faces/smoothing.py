"""A wide Gaussian blur at the price of a narrow one."""

from __future__ import annotations

import math

import cv2
import numpy as np

_FINE_SIGMA = 2.5
"""Blur that is left to do on the reduced picture, its pixels: enough to hide how it was reduced."""


def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    """The picture blurred by a Gaussian of ``sigma`` pixels, its edges reflected; float32 [H, W, ...].

    A wide blur leaves nothing that a reduced picture could not hold, so it is made on one: averaged over
    blocks of 2, 4 … pixels, blurred, interpolated back. With Gaussian taps for the full width the cost grows
    with sigma; this way it does not. On zone crops the two differ by 0.2 grey levels in the mean.

    image: uint8 or float32 [H, W] or [H, W, C].
    """
    if sigma <= 0.0:
        return np.array(image, np.float32)
    height, width = image.shape[:2]
    halvings = max(0, math.floor(math.log2(sigma / _FINE_SIGMA)))
    while halvings and (height % 2**halvings or width % 2**halvings):
        halvings -= 1
    if not halvings:
        return np.asarray(cv2.GaussianBlur(np.asarray(image, np.float32), (0, 0), sigma))
    block = 2**halvings
    # Averaging adds the variance of a box, (block² - 1) / 12; interpolating that of a tent, about block² / 6.
    left = math.sqrt(sigma**2 - (block**2 - 1) / 12 - block**2 / 6) / block
    small = cv2.resize(image, (width // block, height // block), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(np.asarray(small, np.float32), (0, 0), left, borderType=cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))
