"""Alignment of face chips."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.age import age_chips
from benchmarks.quality.chips import chip_transform, similarity
from benchmarks.quality.identity import identity_chip

# FaceMesh corners of the eyes and nose base, and where dlib's mean face has them in a chip of 100 pixels
# without padding.
MESH = {263: (85.96, 21.35), 362: (64.61, 22.90), 33: (12.06, 21.37), 133: (33.41, 22.91), 2: (49.01, 62.78)}


def mesh(linear: np.ndarray, shift: np.ndarray) -> np.ndarray:
    landmarks = np.zeros((468, 3), np.float32)
    for index, point in MESH.items():
        landmarks[index, :2] = linear @ np.array(point) + shift
    return landmarks


def test_similarity_recovers_rotation_scale_and_shift() -> None:
    angle, scale, shift = 0.7, 1.8, np.array([5.0, -3.0])
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.random.default_rng(0).normal(size=(6, 2))
    found = similarity(points, points @ linear.T + shift)
    assert np.allclose(found, np.column_stack([linear, shift]))


def test_similarity_never_mirrors() -> None:
    points = np.random.default_rng(1).normal(size=(6, 2))
    found = similarity(points, points * (-1, 1))
    assert np.linalg.det(found[:, :2]) > 0


def test_the_mean_face_lies_in_the_padded_chip() -> None:
    transform = chip_transform(mesh(np.eye(2), np.zeros(2)), size=150, padding=0.25)
    # A chip of 150 with a quarter of padding on each side shows the mean face's square in its middle 100
    # pixels.
    assert np.allclose(transform, [[1, 0, -25], [0, 1, -25]], atol=0.02)


@pytest.mark.parametrize("turn", [0.0, 30.0, -80.0])
def test_a_turned_face_gives_the_same_chip(turn: float) -> None:
    angle = np.radians(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    y, x = np.mgrid[0:300, 0:300].astype(np.float64)
    shift = np.array([150.0, 150.0]) - rotation @ (50.0, 50.0)
    back = np.einsum("ij,jhw->ihw", rotation.T, np.stack([x, y]) - shift[:, None, None])
    image = np.clip(128 + 60 * np.sin(back[0] / 9) + 40 * np.cos(back[1] / 7), 0, 255)
    picture = np.repeat(image[..., None], 3, 2).astype(np.uint8)
    chip = identity_chip(picture, mesh(rotation, shift))
    u = np.arange(150) - 25.0
    expected = np.clip(128 + 60 * np.sin(u[None] / 9) + 40 * np.cos(u[:, None] / 7), 0, 255)
    assert chip.shape == (150, 150, 3)
    assert np.abs(chip[30:120, 30:120, 0] - expected[30:120, 30:120]).max() < 6


def test_age_chips_are_mirrored_pairs() -> None:
    picture = np.random.default_rng(2).integers(0, 256, (120, 120, 3), dtype=np.uint8)
    chips = age_chips(picture, mesh(np.eye(2), np.zeros(2)))
    assert len(chips) == 18
    for chip, mirrored in zip(chips[::2], chips[1::2]):
        assert chip.shape == (64, 64, 3)
        assert np.array_equal(chip[:, ::-1], mirrored)
