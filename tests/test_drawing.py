"""Zones drawn over a face, views and panels."""

from __future__ import annotations

import numpy as np
import pytest

from agesdk.drawing import FaceView, draw_zones, labelled_panels, zone_outline
from agesdk.faces.zones import ZONES, crop_transform

# A face whose mesh is a disc of points: enough for the geometry of zones.
_ANGLES = np.linspace(0, 40 * np.pi, 468)
LANDMARKS = np.stack([200 + 80 * np.cos(_ANGLES), 150 + 100 * np.sin(_ANGLES)], axis=1)
for _point, _place in {33: (160, 130), 133: (180, 130), 362: (220, 130), 263: (240, 130)}.items():
    LANDMARKS[_point] = _place
LANDMARKS[61], LANDMARKS[291] = (175, 200), (225, 200)


@pytest.mark.parametrize("zone", ZONES, ids=[zone.name for zone in ZONES])
def test_outlines_lie_inside_their_crops(zone) -> None:
    transform = crop_transform(LANDMARKS, zone)
    inside = np.linalg.solve(transform[:, :2], (zone_outline(LANDMARKS, zone) - transform[:, 2]).T)
    assert inside.min() >= -0.5
    assert inside.max() <= 127.5


def test_only_named_zones_are_drawn_and_the_source_stays() -> None:
    image = np.full((300, 400, 3), 90, np.uint8)
    drawn = draw_zones(image, LANDMARKS, {"upper_lip": 0.4, "glabella": None})
    assert (image == 90).all()
    changed = (drawn != 90).any(axis=2)
    assert changed.any()
    rows, columns = np.nonzero(changed)
    outlines = [zone_outline(LANDMARKS, zone) for zone in ZONES if zone.name in ("upper_lip", "glabella")]
    low, high = np.min([o.min(0) for o in outlines], 0) - 8, np.max([o.max(0) for o in outlines], 0) + 8
    assert low[0] <= columns.min() <= columns.max() <= high[0]
    assert low[1] <= rows.min() <= rows.max() <= high[1]
    assert np.array_equal(draw_zones(image, LANDMARKS, {}), image)


@pytest.mark.parametrize(
    "bbox", [(150, 100, 250, 220), (-30, -40, 60, 60), (350, 250, 420, 330), (-9, -9, 500, 500)]
)
def test_a_view_is_a_square_inside_the_picture_and_maps_points(
    bbox: tuple[float, float, float, float],
) -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    view = FaceView.around(image, bbox, 128)
    assert 0 <= view.left <= view.left + view.side <= 400
    assert 0 <= view.top <= view.top + view.side <= 300
    assert view.show(image).shape == (128, 128, 3)
    corners = np.array(
        [[view.left - 0.5, view.top - 0.5], [view.left + view.side - 0.5, view.top + view.side - 0.5]]
    )
    np.testing.assert_allclose(view.points(corners), [[-0.5, -0.5], [127.5, 127.5]])


def test_panels_stand_side_by_side_unchanged() -> None:
    panels = [
        (name, np.full((100, 80, 3), value, np.uint8)) for name, value in (("a", 10), ("b", 120), ("c", 200))
    ]
    sheet = labelled_panels(panels, columns=2)
    for value in (10, 120, 200):
        assert (sheet == value).all(axis=2).sum() >= 100 * 80 * 0.99
    assert sheet.shape[0] > 200
    assert sheet.shape[1] > 160
