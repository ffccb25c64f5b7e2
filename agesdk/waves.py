"""Waves: zones whose crops do not overlap, aged in one batch.

LDLA ages zone after zone, each crop taken from the picture so far. The crops of two zones that do not overlap
do not see each other's change, so their order does not matter and they can be one batch. Colouring the graph
of overlaps gives the waves; running them one after the other gives exactly the pictures of the sequential
order that lists the waves' zones one by one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from agesdk.faces.frames import frame_step


def make_waves(transforms: Mapping[str, np.ndarray], size: int) -> list[list[str]]:
    """Zone names by wave, both in the order of the mapping.

    Parameters
    ----------
    transforms:
        By zone name the map from crop pixels to image pixels, float64 [2, 3].
    size:
        Side of the crops in pixels.

    Greedy colouring, the zones with most overlaps first; on face zones it finds the fewest waves.
    """
    names = list(transforms)
    footprints = [_footprint(transform, size) for transform in transforms.values()]
    meets = _intersections(np.array(footprints).reshape(-1, 4, 2))
    overlaps = {
        name: {other for other, met in zip(names, row) if met and other != name}
        for name, row in zip(names, meets)
    }
    waves: list[set[str]] = []
    for name in sorted(names, key=lambda name: -len(overlaps[name])):
        wave = next((wave for wave in waves if not wave & overlaps[name]), None)
        if wave is None:
            waves.append({name})
        else:
            wave.add(name)
    return [[name for name in names if name in wave] for wave in waves]


def _footprint(transform: np.ndarray, size: int) -> np.ndarray:
    """Corners of all image pixels that taking or pasting the crop may read or write, float64 [4, 2].

    Beyond the crop itself these are the reach of its interpolation: two image pixels or two crop pixels.
    """
    reach = 2.0 + 2.0 / min(1.0, frame_step(transform))
    low, high = -0.5 - reach, size - 0.5 + reach
    corners = np.array([[low, low], [high, low], [high, high], [low, high]])
    return np.asarray(corners @ transform[:, :2].T + transform[:, 2])


def _intersections(polygons: np.ndarray) -> np.ndarray:
    """Which of the convex polygons, float64 [N, corners, 2], share a point: bool [N, N].

    Two do if no edge's normal separates them.
    """
    edges = np.roll(polygons, -1, axis=1) - polygons
    normals = np.stack([-edges[..., 1], edges[..., 0]], axis=-1)
    # Every polygon (axis 2) seen along every normal (axis 1) of every polygon (axis 0).
    along = np.einsum("ien,pcn->iepc", normals, polygons)
    low, high = along.min(axis=-1), along.max(axis=-1)
    own = np.arange(len(polygons))
    own_low, own_high = low[own, :, own][..., None], high[own, :, own][..., None]
    separated = ((own_high < low) | (high < own_low)).any(axis=1)
    return np.asarray(~(separated | separated.T))
