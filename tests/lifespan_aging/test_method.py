"""AdaNI, SVR-ArcFace and Rotate-CLIP against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from agesdk.bundle import AdaptiveNoiseSettings
from agesdk.lifespan_method import adaptive_strength, reweight_singular_values, rotate_clip, slerp

PAPER = AdaptiveNoiseSettings(t1=5, t2=30)


@pytest.mark.parametrize(
    "source, target, two, one",
    [
        (25, 25, 0.25, 0.25),
        (25, 30, 0.25, 0.25),
        (30, 25, 0.25, 0.25),
        (25, 31, 0.5, 0.5),
        (25, 55, 0.5, 0.5),
        (55, 25, 0.5, 0.5),
        (25, 56, 0.75, 0.5),
        (60, 10, 0.75, 0.5),
    ],
)
def test_strength_grows_with_the_gap_and_thresholds_are_inclusive(
    source: int, target: int, two: float, one: float
) -> None:
    assert adaptive_strength(PAPER, source, target) == two
    assert adaptive_strength(AdaptiveNoiseSettings("one_threshold", 5, 30), source, target) == one
    assert adaptive_strength(AdaptiveNoiseSettings("fixed", 5, 30, fixed=0.6), source, target) == 0.6


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("width", [3, 512, 25088])
@pytest.mark.parametrize("related", [True, False])
def test_svr_is_the_full_decomposition(count: int, width: int, related: bool) -> None:
    rng = np.random.default_rng(count * width)
    embeddings = rng.standard_normal((count, width))
    if related:  # pictures of one person
        embeddings = embeddings[0] + 0.2 * embeddings
    alpha, beta = 0.01, 1.1
    u, s, vt = np.linalg.svd(embeddings.T, full_matrices=False)
    wanted = (u * (beta * s * np.exp(alpha * s))) @ vt[:, 0]
    ours = reweight_singular_values(list(embeddings), alpha, beta)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_svr_of_one_picture_twice_does_not_divide_by_zero() -> None:
    embedding = np.random.default_rng(0).standard_normal(512)
    norm = np.sqrt(2.0) * np.linalg.norm(embedding)
    ours = reweight_singular_values([embedding, embedding], 0.01, 1.1)
    np.testing.assert_allclose(ours, 1.1 * np.exp(0.01 * norm) * embedding, rtol=1e-5)


def test_svr_matches_the_recorded_input_of_the_projection(variant_b) -> None:
    for case in ("as_25_28_f", "tx_60_10_f"):
        golden = variant_b.case(case)
        embeddings = [golden["arcface_embedding"][0], golden["arcface_embedding_aged"][0]]
        ours = reweight_singular_values(embeddings, 0.01, 1.1)
        np.testing.assert_allclose(ours, golden["face_project_input"][0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["angle", "vector"])
def test_equal_ages_leave_the_clip_embedding_unturned(mode: str) -> None:
    rng = np.random.default_rng(5)
    image, text = rng.standard_normal(768), rng.standard_normal(768)
    turned = rotate_clip(image, text, text, mode)
    np.testing.assert_allclose(turned, image / np.linalg.norm(image), atol=1e-6)


def test_angle_goes_to_the_midpoint_of_the_arc() -> None:
    angle = np.deg2rad(40.0)
    start, stop = np.array([1.0, 0.0]), np.array([np.cos(angle), np.sin(angle)])
    middle = slerp(0.5, start, stop)
    np.testing.assert_allclose(middle, [np.cos(angle / 2), np.sin(angle / 2)], atol=1e-12)


def test_vector_adds_the_whole_difference() -> None:
    rng = np.random.default_rng(6)
    image, source, target = (v / np.linalg.norm(v) for v in rng.standard_normal((3, 24)))
    moved = image + target - source
    ours = rotate_clip(3.0 * image, 2.0 * source, 5.0 * target, "vector")
    np.testing.assert_allclose(ours, moved / np.linalg.norm(moved), atol=1e-6)
