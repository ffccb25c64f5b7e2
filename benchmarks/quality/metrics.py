"""The measures: rank correlation, signal-to-noise ratios, skin tone, and comparison of groups. Pure functions
of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

LOW_PASS_SIGMA = 5.0
"""Of the Gaussian, in crop pixels: wider than any wrinkle, narrower than a blotch."""

PSNR_CAP = 99.0
"""Decibels given to identical pictures, whose ratio is infinite."""


def spearman(x: Sequence[float] | NDArray[np.floating], y: Sequence[float] | NDArray[np.floating]) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; 0 where either side is constant."""
    a, b = _ranks(np.asarray(x, np.float64)), _ranks(np.asarray(y, np.float64))
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)


def psnr(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of one shape on the 0..255 scale, at most
    :data:`PSNR_CAP`."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return PSNR_CAP if error <= 0 else min(PSNR_CAP, 10 * float(np.log10(255.0**2 / error)))


def low_pass_psnr(a: NDArray[np.uint8], b: NDArray[np.uint8], sigma: float = LOW_PASS_SIGMA) -> float:
    """PSNR after both pictures were blurred: high when only fine detail moved, low when tone or colour
    did."""
    return psnr(low_pass(a, sigma), low_pass(b, sigma))


def low_pass(image: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    """Gaussian blur in float, borders mirrored, so nothing is rounded and nothing darkens at the edge."""
    blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.float32)


def skin_lightness(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """CIE lightness and individual typology angle of skin.

    Parameters
    ----------
    pixels:
        uint8 [N, 3], sRGB.

    Returns
    -------
    (L*, ITA)
        L* in 0..100, median over the pixels; ITA = arctan((L* - 50) / b*) in degrees (Chardon et al., 1991):
        above 55 very light, 41 light, 28 intermediate, 10 tan, -30 brown, below dark.
    """
    lab = cv2.cvtColor(pixels.reshape(1, -1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    lightness, yellow = float(np.median(lab[:, 0])), float(np.median(lab[:, 2]))
    return lightness, float(np.degrees(np.arctan2(lightness - 50, yellow)))


ITA_GROUPS = (("light", 41.0), ("medium", 10.0), ("dark", -np.inf))
"""Group and the angle above which it begins, in degrees."""


def ita_group(ita: float) -> str:
    """``light`` (above 41°), ``medium`` (10..41°: intermediate and tan) or ``dark`` (brown and dark)."""
    return next(name for name, lower in ITA_GROUPS if ita > lower)


def worst_to_best(values: Mapping[str, float], higher_is_better: bool) -> float:
    """How much of the best group's figure the worst group has, 0..1; NaN where fewer than two groups can be
    compared."""
    figures = [value for value in values.values() if np.isfinite(value)]
    if len(figures) < 2:
        return float("nan")
    low, high = min(figures), max(figures)
    if high <= 0:
        return 0.0 if higher_is_better else 1.0
    return max(0.0, low / high)


def mean(values: Sequence[float]) -> float:
    """Mean of the finite values; NaN when there is none."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
