"""Waves hold no two crops that see each other, and all zones once."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from agesdk.faces.zones import ZONES, crop_transform
from agesdk.waves import make_waves


def square(x: float, y: float, side: float = 128.0, angle: float = 0.0, mirrored: bool = False) -> np.ndarray:
    """A crop of 128 pixels over a square with its centre at (x, y)."""
    step = side / 128
    columns = step * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        columns[:, 0] *= -1
    return np.column_stack([columns, np.array([x, y]) - columns @ np.full(2, 63.5)])


@pytest.mark.parametrize(
    "crops, waves",
    [
        ({"a": square(0, 0)}, [["a"]]),
        ({"a": square(0, 0), "b": square(200, 0)}, [["a", "b"]]),
        ({"a": square(0, 0), "b": square(100, 0)}, [["a"], ["b"]]),
        # b touches both, a and c share a wave; b has most overlaps and comes first.
        ({"a": square(0, 0), "b": square(120, 0), "c": square(240, 0)}, [["b"], ["a", "c"]]),
        # Boxes overlap, turned squares do not.
        ({"a": square(0, 0, angle=np.pi / 4), "b": square(105, 105, angle=np.pi / 4)}, [["a", "b"]]),
        ({"a": square(0, 0, mirrored=True), "b": square(138, 0)}, [["a", "b"]]),
        # Three pixels apart is within reach of the interpolation.
        ({"a": square(0, 0), "b": square(131, 0)}, [["a"], ["b"]]),
        ({}, []),
    ],
)
def test_waves_of_squares(crops, waves):
    assert make_waves(crops, 128) == waves


@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_face_zones_make_four_waves_of_disjoint_crops(portrait, scale):
    _, face = portrait
    transforms = {zone.name: crop_transform(face.landmarks * scale, zone) for zone in ZONES}
    waves = make_waves(transforms, 128)
    assert sorted(itertools.chain(*waves)) == sorted(zone.name for zone in ZONES)
    if scale >= 1.0:
        assert len(waves) == 4
    corners = np.array([[-0.5, -0.5], [127.5, -0.5], [127.5, 127.5], [-0.5, 127.5]])
    for wave in waves:
        quads = [corners @ transforms[name][:, :2].T + transforms[name][:, 2] for name in wave]
        for first, second in itertools.combinations(quads, 2):
            area, _ = cv2.intersectConvexConvex(first.astype(np.float32), second.astype(np.float32))
            assert area == 0.0
