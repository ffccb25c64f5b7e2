"""Fréchet distance against closed forms and scipy's matrix square root."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from benchmarks.quality.frechet import feature_frechet, gaussian_frechet, principal_axes


def test_one_dimension_has_the_closed_form() -> None:
    distance = gaussian_frechet(np.array([1.0]), np.array([[4.0]]), np.array([4.0]), np.array([[9.0]]))
    assert distance == pytest.approx(3**2 + (2 - 3) ** 2)


def test_commuting_covariances_have_the_closed_form() -> None:
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 0.0])
    expected = np.sum((np.sqrt(a) - np.sqrt(b)) ** 2) + 3 * 0.5**2
    assert gaussian_frechet(np.zeros(3), np.diag(a), np.full(3, 0.5), np.diag(b)) == pytest.approx(expected)


def test_general_covariances_equal_scipys_matrix_square_root() -> None:
    random = np.random.default_rng(3)
    roots = random.normal(size=(2, 6, 6))
    a, b = roots[0] @ roots[0].T, roots[1] @ roots[1].T
    expected = np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert gaussian_frechet(np.zeros(6), a, np.zeros(6), b) == pytest.approx(expected, rel=1e-9)
    assert gaussian_frechet(np.zeros(6), b, np.zeros(6), a) == pytest.approx(expected, rel=1e-9)


def test_samples_of_two_gaussians_approach_the_closed_form() -> None:
    random = np.random.default_rng(4)
    first = random.normal(size=(20_000, 3)) * (1, 2, 3)
    second = random.normal(size=(20_000, 3)) * (2, 2, 1) + (1, 0, 0)
    assert feature_frechet(first, second) == pytest.approx(1 + 1 + 0 + 4, rel=0.05)


def test_a_sample_has_no_distance_to_itself_even_when_singular() -> None:
    few = np.random.default_rng(5).normal(size=(4, 16))
    assert feature_frechet(few, few) == pytest.approx(0, abs=1e-8)


def test_a_single_feature_has_a_variance_for_a_covariance() -> None:
    a, b = np.array([[0.0], [2.0]]), np.array([[1.0], [5.0]])
    assert feature_frechet(a, b) == pytest.approx(4 + (np.sqrt(8) - np.sqrt(2)) ** 2)


def test_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="two samples"):
        feature_frechet(np.zeros((1, 3)), np.zeros((5, 3)))


def test_principal_axes_find_the_widest_directions() -> None:
    features = np.random.default_rng(6).normal(size=(500, 3)) * (0.1, 5.0, 1.0) + 7
    axes = principal_axes(features, 2)
    assert axes.shape == (3, 2)
    assert np.abs(axes.T @ axes - np.eye(2)).max() < 1e-12
    assert abs(axes[1, 0]) > 0.99 and abs(axes[2, 1]) > 0.99
