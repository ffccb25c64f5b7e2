"""Calibration: curves against cases worked out by hand."""

import itertools

import numpy as np
import pytest

from training.calibrate import (
    TARGETS,
    condition_curve,
    inverted,
    inverted_by_target,
    isotonic,
    reading_curve,
    response_by_source,
)


def test_isotonic_pools_violators() -> None:
    # 3, 1 pool to their mean; 2 stays at least that.
    assert isotonic(np.array([3.0, 1.0, 2.0, 5.0])).tolist() == [2.0, 2.0, 2.0, 5.0]
    assert isotonic(np.array([3.0, 1.0]), np.array([3.0, 1.0])).tolist() == [2.5, 2.5]


def test_condition_curve_inverts_what_the_model_reaches() -> None:
    # A model that answers 0.2 + 0.5 c: target 0.45 needs c = 0.5.
    curve, response = condition_curve(lambda c: np.full(3, 0.2 + 0.5 * c))
    assert response[[0, -1]] == pytest.approx([0.2, 0.7])
    targets, conditions = np.array(curve).T
    assert tuple(targets) == TARGETS
    assert np.interp(0.45, targets, conditions) == pytest.approx(0.5, abs=0.01)
    assert conditions[0] == 0.0 and conditions[-1] == 1.0


def test_condition_curve_keeps_rising_where_the_response_is_flat() -> None:
    """Unreachable targets must not all become one picture."""
    curve, _ = condition_curve(lambda c: np.array([max(0.3, c) * 0.9]))
    assert (np.diff(np.array(curve)[:, 1]) > 0).all()


def test_a_model_that_does_not_respond_is_left_uncalibrated() -> None:
    curve, _ = condition_curve(lambda c: np.array([0.5]))
    assert all(target == condition for target, condition in curve)


def test_reading_curve_maps_readings_to_mean_scores() -> None:
    readings = np.linspace(0.2, 0.8, 64)
    curve = np.array(reading_curve(readings, (readings - 0.2) / 0.6))
    assert np.interp(0.5, curve[:, 0], curve[:, 1]) == pytest.approx(0.5, abs=0.02)
    assert (np.diff(curve, axis=0) >= 0).all()


def test_a_response_that_depends_on_the_source_is_inverted_for_each_source() -> None:
    random = np.random.default_rng(0)
    conditions = np.linspace(0.0, 1.0, 7)
    before = random.uniform(0.05, 0.95, 60)
    after = 0.1 + 0.4 * before[:, None] + 0.5 * conditions + random.normal(0.0, 0.03, (60, 7))
    response = response_by_source(before, after, (0.2, 0.8))
    assert response == pytest.approx(np.stack([0.18 + 0.5 * conditions, 0.42 + 0.5 * conditions]), abs=0.03)
    for row, expected in zip(response, ((0.5 - 0.18) / 0.5, (0.5 - 0.42) / 0.5)):
        curve = dict(map(tuple, inverted(row, list(conditions))))
        assert curve[0.5] == pytest.approx(expected, abs=0.07)


def test_a_response_that_depends_on_the_target_is_inverted_at_each_target() -> None:
    """Of a change by the condition, all is pasted for target 0 and half for target 1."""
    conditions, targets = np.linspace(0.0, 1.0, 11), (0.0, 0.5, 1.0)
    response = conditions[:, None] * (1.0 - 0.5 * np.array(targets))
    curve = inverted_by_target(response, list(conditions), targets)
    assert dict(map(tuple, curve))[0.2] == pytest.approx(0.2 / 0.9, abs=0.01)
    assert dict(map(tuple, curve))[0.4] == pytest.approx(0.4 / 0.8, abs=0.01)
    assert curve[0][1] < 0.05 and curve[-1][1] == 1.0
    assert all(a[0] < b[0] and a[1] <= b[1] for a, b in itertools.pairwise(curve))


def test_noise_between_targets_does_not_make_the_curve_fall() -> None:
    conditions = np.linspace(0.0, 1.0, 11)
    response = np.stack([conditions, np.sqrt(conditions)], axis=1)
    curve = inverted_by_target(response, list(conditions), (0.4, 0.5))
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(curve))
    falling = np.interp(0.5, response[:, 1], conditions)
    assert falling < 0.4 and falling < dict(map(tuple, curve))[0.5] == dict(map(tuple, curve))[0.4]


def test_a_target_for_which_nothing_is_pasted_gets_the_condition_of_the_one_before() -> None:
    conditions = np.linspace(0.0, 1.0, 11)
    response = np.stack([conditions, 0.3 + 0.0 * conditions], axis=1)
    curve = dict(map(tuple, inverted_by_target(response, list(conditions), (0.4, 0.5))))
    assert curve[0.4] == pytest.approx(0.4, abs=0.01)
    assert curve[0.5] == curve[1.0] == curve[0.4]
    flat = inverted_by_target(np.full((11, 2), 0.4), list(conditions), (0.4, 0.5))
    assert all(target == condition for target, condition in flat)
