"""The few statistics that records are reduced to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Percentiles:
    """Of all samples, by linear interpolation; of few samples the high ones are close to the largest."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians, and the middle half of the ratios of neighbouring samples."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}× ({self.low:.2f}–{self.high:.2f})"


def percentiles(samples: Sequence[float]) -> Percentiles:
    """p50, p90 and p99; at least one sample."""
    return Percentiles(*(float(value) for value in np.percentile(samples, [50, 90, 99])))


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """How much larger the first is than the second: both taken alternately, as many of each.

    The spread comes from pairs taken one after the other, so slow changes of the machine do not widen it.
    """
    pairs = np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
    low, high = np.percentile(pairs, [25, 75])
    return Ratio(float(np.median(numerator) / np.median(denominator)), float(low), float(high))


def slope(values: Sequence[float]) -> float:
    """Growth per sample by least squares."""
    return float(np.polyfit(np.arange(len(values)), np.asarray(values, np.float64), 1)[0])
