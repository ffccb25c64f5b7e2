"""The aging score: our open substitute for the skin-aging atlases that LDLA's authors used.

score = percentile rank, within one kind of zone, of ½·z(wrinkle index) + ½·z(age).

The *wrinkle index* of a crop is a non-negative combination of log energies of ridge filters on log-luminance
(so that contrast is relative, as Weber's law has it, and does not depend on skin tone), measured on bare skin
only. Its weights are fitted, per kind of zone, to age by non-negative least squares, with the data set and
the native resolution as nuisance variables: a sharper camera must not look older. The index alone can not
tell a wrinkle from a blotch; see ``benchmarks quality-zone`` for what is measured beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from agesdk.errors import UsageError

SCALES = (1.2, 2.0, 3.2)
"""Deviations of the Gaussian derivative filters, in pixels of a 128-pixel crop."""

FEATURES: tuple[str, ...] = tuple(
    f"{kind}_{scale:g}" for scale in SCALES for kind in ("total", "horizontal", "vertical", "coherent")
)
_FLOOR = 1e-5
AGE_RANGE = (12.0, 85.0)
"""Ages are clipped to this range: below it skin does not wrinkle, above it there are too few faces."""


def ridge_features(crop: NDArray[np.uint8], mask: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log energies of dark ridges on bare skin, float64 [12], in the order of `FEATURES`.

    crop: uint8 [S, S, 3] RGB; mask: float32 [S, S] in 0..1, share of skin. A dark line has a large positive
    second derivative across it (Lindeberg 1998): ``total`` is the energy of the larger eigenvalue of the
    scale-normalised Hessian, ``horizontal`` and ``vertical`` of the derivative across lines of that
    direction, ``coherent`` of what is anisotropic (lines, not pits).
    """
    luminance = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    log_luminance = np.log(luminance + 8.0)
    # Skin is continued under whatever covers it, so that the edge of a brow does not count as a ridge.
    wide = cv2.GaussianBlur(mask, (0, 0), 6.0)
    level = cv2.GaussianBlur(log_luminance * mask, (0, 0), 6.0) / np.maximum(wide, 1e-3)
    filled = mask * log_luminance + (1.0 - mask) * np.where(wide > 1e-2, level, log_luminance)
    inner = cv2.erode(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13))) ** 2
    if inner.sum() < 200.0:  # a sliver of skin: keep what there is
        inner = cv2.erode(mask, np.ones((5, 5), np.uint8)) ** 2
    total_weight = float(inner.sum()) + 1e-6
    values = []
    for scale in SCALES:
        smooth = cv2.GaussianBlur(filled, (0, 0), scale)
        dxx = cv2.Sobel(smooth, cv2.CV_32F, 2, 0, ksize=3, scale=0.25) * scale**2
        dyy = cv2.Sobel(smooth, cv2.CV_32F, 0, 2, ksize=3, scale=0.25) * scale**2
        dxy = cv2.Sobel(smooth, cv2.CV_32F, 1, 1, ksize=3, scale=0.25) * scale**2
        half_trace, gap = (dxx + dyy) / 2, np.sqrt(((dxx - dyy) / 2) ** 2 + dxy**2)
        largest = np.maximum(half_trace + gap, 0.0)
        coherent = np.clip(largest - np.abs(half_trace - gap), 0.0, None)
        for response in (largest, np.maximum(dyy, 0.0), np.maximum(dxx, 0.0), coherent):
            # A mole or a stray hair is strong and small; a cap at the 99th percentile keeps it from counting
            # as much as a field of wrinkles.
            on_skin = response[inner > 0.25]
            response = np.minimum(response, np.quantile(on_skin, 0.99)) if on_skin.size else response
            values.append(np.log(float((inner * response**2).sum()) / total_weight + _FLOOR))
    return np.array(values)


@dataclass(frozen=True)
class WrinkleIndex:
    """The fitted index of one kind of zone: ``(weights · features − mean) / deviation``.

    ``mean`` and ``deviation`` are those of the population it was fitted on, so its unit is a population SD.
    """

    kind: str
    weights: tuple[float, ...]
    mean: float
    deviation: float
    spearman_with_age: float

    def of_features(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """features: float64 [..., 12] → index, float64 [...]."""
        return (features @ np.array(self.weights) - self.mean) / self.deviation

    def __call__(self, crop: NDArray[np.uint8], mask: NDArray[np.float32]) -> float:
        """crop: uint8 [128, 128, 3] RGB, right-side zones mirrored; mask: `agesdk.faces.skin.skin_mask`."""
        return float(self.of_features(ridge_features(crop, mask)))


def fit_wrinkle_index(
    kind: str,
    features: NDArray[np.float64],
    ages: NDArray[np.float64],
    sources: Sequence[str],
    native_px: NDArray[np.float64],
) -> tuple[WrinkleIndex, NDArray[np.float64]]:
    """Fits the index to age; returns it and its corrected values, float64 [N], with the nuisance terms taken
    out.

    features: [N, 12]; ages: [N] years, NaN where unknown (left out of the fit); sources: [N] data set names;
    native_px: [N] pixels the picture really has.

    Raises `UsageError` where ages do not differ, or nothing in the crops grows with them.
    """
    from scipy.optimize import nnls
    from scipy.stats import spearmanr

    age = np.clip(ages, *AGE_RANGE)
    known = np.isfinite(ages)
    if (different := np.unique(age[known]).size) < 2:
        raise UsageError(
            f"No wrinkle index can be fitted for {kind}",
            f"ages of its {len(ages)} crops, counted as 12 to 85 years: {different} different",
            "Give more portraits, of people of different ages",
        )
    names = sorted(set(sources))
    nuisance = np.stack([np.array([s == name for s in sources], np.float64) for name in names], 1)
    log_px = np.log(native_px)
    nuisance = np.column_stack([nuisance, log_px - log_px.mean()])
    centre, spread = features[known].mean(0), features[known].std(0) + 1e-9
    standard = (features - centre) / spread
    # Nuisance terms may have either sign: each enters with both.
    design = np.column_stack([standard, nuisance, -nuisance])
    ridge = 2.0 * np.eye(design.shape[1])
    solution, _ = nnls(np.vstack([design[known], ridge]), np.concatenate([age[known], np.zeros(len(ridge))]))
    weights = solution[: features.shape[1]] / spread
    k = nuisance.shape[1]
    raw = features @ weights
    # The nuisance part of age is age's; what the index owes to it is found by regressing the index on both.
    both = np.column_stack([nuisance, age])
    share, *_ = np.linalg.lstsq(both[known], raw[known], rcond=None)
    corrected = raw - nuisance @ share[:k]
    if not (raw.std() > 0.0 and corrected.std() > 0.0):
        raise UsageError(
            f"No wrinkle index can be fitted for {kind}",
            f"in {known.sum()} crops no ridge feature grows with age",
            "Give more portraits",
        )
    corrected = (corrected - corrected.mean()) / corrected.std()
    rho = float(spearmanr(corrected[known], age[known]).statistic)
    return WrinkleIndex(
        kind, tuple(float(w) for w in weights), float(raw.mean()), float(raw.std()), rho
    ), corrected


def percentile_rank(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank of each value among all, in 0..1 (ties share the mean rank)."""
    from scipy.stats import rankdata

    return (rankdata(values) - 0.5) / len(values)


def aging_scores(index: NDArray[np.float64], ages: NDArray[np.float64]) -> NDArray[np.float64]:
    """Percentile rank of ½·z(index) + ½·z(age), float64 [N] in 0..1; a face of unknown age goes by its index
    alone.
    """
    age = np.clip(ages, *AGE_RANGE)
    known = np.isfinite(age)
    age_z = (age - age[known].mean()) / age[known].std()
    index_z = (index - index.mean()) / index.std()
    return percentile_rank(0.5 * index_z + 0.5 * np.where(known, age_z, index_z))


def save_indices(path: Path, indices: Sequence[WrinkleIndex]) -> None:
    """Writes the fitted indices as JSON."""
    path.write_text(json.dumps({index.kind: asdict(index) for index in indices}, indent=1) + "\n")


def load_indices(path: Path) -> dict[str, WrinkleIndex]:
    """Reads what :func:`save_indices` wrote, by kind of zone; `UsageError` where it is not that."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        indices = {
            kind: WrinkleIndex(**{**entry, "weights": tuple(entry["weights"])})
            for kind, entry in data.items()
        }
        for kind, index in indices.items():
            numbers = np.array([*index.weights, index.mean, index.deviation])
            if numbers.dtype.kind not in "fi" or numbers.size != len(FEATURES) + 2:
                raise ValueError(f"{kind} needs {len(FEATURES)} weights, a mean and a deviation")
            if not np.isfinite(numbers).all() or not index.deviation > 0.0:
                raise ValueError(f"{kind} needs finite numbers and a deviation above 0")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"'{path}' is no usable table of wrinkle indices",
            repr(error),
            "Make the folder: python -m training prepare-zones FACES_DIR ZONES_DIR",
        ) from error
    return indices
