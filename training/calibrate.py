"""Calibration: which score to ask the model for, so that the wanted one comes out, per kind of zone.

A denoiser under-reacts: asked for 0.9 it gives 0.75. The response to a grid of conditions is measured with
ScoreNet on validation crops, made monotone (isotonic regression) and inverted. ScoreNet itself is calibrated
first, on real validation crops, so that its mean reading is the mean score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

CONDITIONS = tuple(np.round(np.linspace(0.0, 1.0, 11), 2))
TARGETS = tuple(np.round(np.linspace(0.0, 1.0, 11), 2))

REACH = 0.02
"""Scores this close to the ends of the response count as out of reach: there it is flat."""

Curve = list[list[float]]


def isotonic(values: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """The non-decreasing sequence nearest to ``values`` in weighted squares: pool adjacent violators, float64
    [N].
    """
    blocks: list[list[float]] = []
    for value, weight in zip(values, np.ones(len(values)) if weights is None else weights, strict=True):
        blocks.append([float(value), float(weight), 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            v2, w2, n2 = blocks.pop()
            v1, w1, n1 = blocks.pop()
            blocks.append([(v1 * w1 + v2 * w2) / (w1 + w2), w1 + w2, n1 + n2])
    return np.concatenate([np.full(int(n), v) for v, _, n in blocks])


def reading_curve(readings: NDArray[np.float64], scores: NDArray[np.float64], bins: int = 8) -> Curve:
    """Maps ScoreNet's readings of real crops to their scores: [[reading, score], ...], both strictly
    increasing ends.

    readings, scores: [N]. Quantile bins of the reading, mean score in each, made monotone, with the ends (0,
    0) and (1, 1).
    """
    order = np.argsort(readings)
    parts = np.array_split(order, bins)
    x = np.array([readings[p].mean() for p in parts])
    y = isotonic(np.array([scores[p].mean() for p in parts]), np.array([float(len(p)) for p in parts]))
    return [
        [0.0, 0.0],
        *[[round(float(a), 4), round(float(b), 4)] for a, b in zip(x, y, strict=True)],
        [1.0, 1.0],
    ]


def condition_curve(
    respond: Callable[[float], NDArray[np.float64]], conditions: Sequence[float] = CONDITIONS
) -> tuple[Curve, NDArray[np.float64]]:
    """The curve of `inverted`, and the response: ``respond(condition)`` gives the (calibrated) scores of the
    results, [N]."""
    response = np.array([float(np.mean(respond(c))) for c in conditions])
    return inverted(response, conditions), response


def inverted(response: NDArray[np.float64], conditions: Sequence[float]) -> Curve:
    """Inverts a response, the mean score under each condition: [[target, condition], ...] for the eleven
    targets 0, 0.1 … 1.

    Targets outside what the model can reach share the conditions that are left over at that end, so that more
    still asks for more.
    """
    if not _responds(response):
        return [[float(t), float(t)] for t in TARGETS]
    smooth = isotonic(response) + 1e-6 * np.arange(len(conditions))
    low, high = smooth[0] + REACH, smooth[-1] - REACH
    first, last = np.interp([low, high], smooth, conditions)
    curve = []
    for target in TARGETS:
        if target < low:
            condition = first * target / low
        elif target > high:
            condition = last + (1.0 - last) * (target - high) / max(1.0 - high, 1e-6)
        else:
            condition = np.interp(target, smooth, conditions)
        curve.append([float(target), round(float(condition), 4)])
    return curve


def _responds(response: NDArray[np.float64]) -> bool:
    """Whether the answers differ by more than `REACH` at both ends takes away."""
    smooth = isotonic(response)
    return bool(smooth[-1] - smooth[0] > 2.0 * REACH)


def inverted_by_target(
    response: NDArray[np.float64], conditions: Sequence[float], targets: Sequence[float]
) -> Curve:
    """`inverted` for a response that also depends on the target, linear between the given ones and constant
    beyond them.

    Parameters
    ----------
    response:
        float64 [conditions, targets].
    targets:
        In 0..1, rising.
    """
    known: list[tuple[float, float]] = []
    for column, target in enumerate(TARGETS):
        answers = np.array([np.interp(target, targets, row) for row in response])
        if _responds(answers):
            known.append((target, inverted(answers, conditions)[column][1]))
    if not known:
        return [[float(target), float(target)] for target in TARGETS]
    # Where the answers do not depend on the condition, as where nothing of a change is pasted, that of the
    # nearest targets does. The curve rises, whatever noise is in the answers for two targets.
    rising = isotonic(np.interp(TARGETS, *np.transpose(known)))
    return [[float(target), round(float(value), 4)] for target, value in zip(TARGETS, rising, strict=True)]


def response_by_source(
    before: NDArray[np.float64], after: NDArray[np.float64], sources: Sequence[float]
) -> NDArray[np.float64]:
    """What is answered to each condition by crops of given scores, float64 [sources, conditions].

    A wrinkled crop stays more wrinkled than a smooth one under any condition. Within a kind of zone the
    relation is close to linear, so a line through all crops says more than the few crops near a score.

    Parameters
    ----------
    before:
        float64 [N], scores of the crops.
    after:
        float64 [N, conditions], of what is made of them (or [N, conditions x targets], where that depends on
        a target too).
    """
    design = np.column_stack([np.ones(len(before)), before])
    line, *_ = np.linalg.lstsq(design, after, rcond=None)
    return np.clip(np.column_stack([np.ones(len(sources)), sources]) @ line, 0.0, 1.0)
