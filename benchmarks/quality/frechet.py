"""Fréchet distance between two clouds of features, each read as a Gaussian.

This is the formula of the Fréchet Inception distance (Heusel et al., 2017, after Dowson and Landau, 1982) on
features of dlib's face recognition network. The numbers are on that network's scale and can not be compared
with any Inception FID; they are read against the distance between two halves of the real set, taken at the
same sample size, because the estimate is biased upwards for small samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def gaussian_frechet(
    mean_a: NDArray[np.floating],
    cov_a: NDArray[np.floating],
    mean_b: NDArray[np.floating],
    cov_b: NDArray[np.floating],
) -> float:
    """Squared Fréchet distance ``|m_a - m_b|² + tr(A + B - 2 (A^½ B A^½)^½)`` of two Gaussians.

    Parameters
    ----------
    mean_a, mean_b:
        float [D].
    cov_a, cov_b:
        float [D, D], symmetric, positive semi-definite; singular is fine.
    """
    values, vectors = np.linalg.eigh(np.asarray(cov_a, np.float64))
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    cross = np.linalg.eigvalsh(root @ np.asarray(cov_b, np.float64) @ root)
    difference = np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64)
    traces = float(np.trace(cov_a) + np.trace(cov_b)) - 2 * float(np.sqrt(np.clip(cross, 0, None)).sum())
    return max(0.0, float(difference @ difference) + traces)


def feature_frechet(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Squared Fréchet distance of Gaussians fitted to features [N, D] and [M, D]; N, M ≥ 2."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if min(len(a), len(b)) < 2:
        raise ValueError("a covariance needs at least two samples")
    # For a single feature np.cov gives a bare number.
    cov_a, cov_b = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b))
    return gaussian_frechet(a.mean(0), cov_a, b.mean(0), cov_b)


def principal_axes(features: NDArray[np.floating], count: int) -> NDArray[np.float64]:
    """The first `count` principal axes [D, count] of features [N, D]: fewer dimensions than samples keep the
    estimate honest."""
    centred = np.asarray(features, np.float64) - np.mean(features, axis=0)
    _, _, rows = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(rows[:count].T, np.float64)
