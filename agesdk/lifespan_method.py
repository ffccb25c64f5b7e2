"""Cradle2Cane's own arithmetic ("From Cradle to Cane", NeurIPS 2025): AdaNI, SVR-ArcFace and Rotate-CLIP.

Pure functions on numpy arrays. Embeddings are used as the networks give them; what is normalised is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agesdk.manifest import AdaptiveNoiseSettings

_LARGEST_COSINE = 1.0 - 1e-7


def adaptive_strength(settings: AdaptiveNoiseSettings, source_age: float, target_age: float) -> float:
    """Adaptive noise injection: the first pass's strength in (0, 1] for an age gap; bounds are inclusive."""
    gap = abs(source_age - target_age)
    small, medium, large = settings.strengths
    if settings.mode == "fixed":
        return settings.fixed
    if gap <= settings.t1:
        return small
    if settings.mode == "one_threshold" or gap <= settings.t2:
        return medium
    return large


def reweight_singular_values(embeddings: Sequence[np.ndarray], alpha: float, beta: float) -> np.ndarray:
    """SVR: the first embedding after the singular values s of all became ``beta * s * exp(alpha * s)``.

    With M the matrix of the embeddings as columns, M = U S V^T, the first column of U S' V^T is M W e1 with
    W = V diag(beta exp(alpha s)) V^T, and V and s^2 come from the small Gram matrix M^T M: 2 × 2 or 4 × 4
    instead of a decomposition of 25,088-wide vectors.

    Parameters
    ----------
    embeddings:
        float [N] each, the source's first; not normalised, for the exponent depends on their size.

    Returns
    -------
    numpy.ndarray
        float32 [N].
    """
    columns = np.stack([np.asarray(embedding, np.float64).ravel() for embedding in embeddings], axis=1)
    squares, vectors = np.linalg.eigh(columns.T @ columns)
    singular = np.sqrt(np.maximum(squares, 0.0))
    factors = beta * np.exp(alpha * singular)
    weights = (vectors * factors) @ vectors[0]
    return (columns @ weights).astype(np.float32)


def rotate_clip(image: np.ndarray, source: np.ndarray, target: np.ndarray, mode: str) -> np.ndarray:
    """Rotate-CLIP: the face's CLIP embedding moved as the texts of source and target age differ.

    ``vector`` adds the whole difference; ``angle`` that to the midpoint of the arc between the texts.

    Parameters
    ----------
    image, source, target:
        float [N]: features of the picture and of the texts "N years old"; they are normalised here.

    Returns
    -------
    numpy.ndarray
        float32 [N], of length 1. For two equal texts it is the normalised image embedding.
    """
    image, source, target = (unit(np.asarray(vector, np.float64)) for vector in (image, source, target))
    end = target if mode == "vector" else slerp(0.5, target, source)
    return unit(image + end - source).astype(np.float32)


def slerp(share: float, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """The point on the arc between two vectors of length 1 (Shoemake 1985)."""
    cosine = float(np.clip(start @ stop, -_LARGEST_COSINE, _LARGEST_COSINE))
    angle = np.arccos(cosine)
    blend = np.sin((1.0 - share) * angle) * start + np.sin(share * angle) * stop
    return np.asarray(blend / np.sin(angle))


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector divided by its length."""
    return np.asarray(vector / np.linalg.norm(vector))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine similarity, -1..1."""
    return float(unit(np.asarray(a, np.float64)) @ unit(np.asarray(b, np.float64)))
