"""Inputs for a network of which only the manifest is known."""

from __future__ import annotations

import numpy as np

from agesdk.backends import Engine


def random_feeds(engine: Engine, batch: int | None = None) -> dict[str, np.ndarray]:
    """Values of the declared dtypes and shapes: normal deviates, pixels, and zeros for indices.

    Symbolic axes take the best size of the profile; ``batch`` that of the axis of this name.
    """
    random = np.random.default_rng(0)
    feeds = {}
    for spec in engine.inputs:
        shape = [
            axis
            if isinstance(axis, int)
            else (batch if axis == "batch" and batch else engine.profile[axis][1])
            for axis in spec.shape
        ]
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            feeds[spec.name] = random.standard_normal(shape).astype(dtype)
        elif dtype == np.uint8:
            feeds[spec.name] = random.integers(0, 256, shape, dtype=np.uint8)
        else:
            feeds[spec.name] = np.zeros(shape, dtype)
    return feeds
