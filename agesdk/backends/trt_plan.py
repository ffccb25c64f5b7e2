"""What a TensorRT engine decides before it touches the GPU: which profile, which shapes, what lies where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agesdk.backends.base import format_shape
from agesdk.engine_key import Profile, show_profile
from agesdk.errors import BackendError
from agesdk.manifest import Component, TensorSpec

ALIGNMENT = 256
"""Bytes; what `cudaMalloc` guarantees, and the most that TensorRT asks of an address."""


def refuse_int8(component: Component) -> None:
    """Raise `BackendError` for an int8 graph: those of agesdk are made for CPUs (docs/precision.md)."""
    if component.precision == "int8":
        raise BackendError(
            f'The component "{component.name}" is an int8 graph',
            "its activations are unsigned with zero points, as CPUs want them, and TensorRT takes signed "
            "symmetric ones only",
            "Use --precision fp16 or fp32, or a bundle that carries one of them",
        )


@dataclass(frozen=True)
class Region:
    """Where a tensor lies in the memory of its plan."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class BufferPlan:
    """All tensors of one engine at one shape, in one allocation of ``total`` bytes."""

    regions: Mapping[str, Region]
    total: int


def axis_sizes(inputs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The size of every symbolic axis, from the shapes of inputs that `check_feeds` has passed."""
    return {
        symbol: size
        for spec in inputs
        for symbol, size in zip(spec.shape, shapes[spec.name], strict=True)
        if isinstance(symbol, str)
    }


def choose_profile(component: str, profiles: Sequence[Profile], sizes: Mapping[str, int]) -> int:
    """The index of the optimization profile for these axis sizes: of those that allow them, the one whose
    best shape is nearest (by the product of ratios); the first of several.

    Raises
    ------
    BackendError
        No profile allows them.
    """
    best, nearest = -1, math.inf
    for index, profile in enumerate(profiles):
        if all(profile[symbol][0] <= size <= profile[symbol][2] for symbol, size in sizes.items()):
            distance = sum(abs(math.log(size / profile[symbol][1])) for symbol, size in sizes.items())
            if distance < nearest:
                best, nearest = index, distance
    if best < 0:
        wanted = ", ".join(f"{symbol} {size}" for symbol, size in sizes.items())
        raise BackendError(
            f'The engine of "{component}" was not built for {wanted}',
            f"its profiles are {' and '.join(show_profile(profile) for profile in profiles)}",
            "Build it with a --profile that contains these sizes",
        )
    return best


def widest(profiles: Sequence[Profile]) -> Profile:
    """What the profiles allow together: the smallest minimum, the first's best, the largest maximum."""
    first = profiles[0]
    return {
        symbol: (
            min(profile[symbol][0] for profile in profiles),
            best,
            max(profile[symbol][2] for profile in profiles),
        )
        for symbol, (_, best, _) in first.items()
    }


def profile_shapes(spec: TensorSpec, profile: Profile) -> tuple[tuple[int, ...], ...]:
    """The smallest, best and largest shape of an input."""
    smallest, best, largest = (
        tuple(axis if isinstance(axis, int) else profile[axis][which] for axis in spec.shape)
        for which in range(3)
    )
    return smallest, best, largest


def plan_buffers(
    specs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]], alignment: int = ALIGNMENT
) -> BufferPlan:
    """Lay tensors out one after the other, each at an aligned offset.

    Raises
    ------
    BackendError
        A shape has a dimension that TensorRT could not infer (-1), or a rank unlike its spec's.
    """
    regions: dict[str, Region] = {}
    offset = 0
    for spec in specs:
        shape = tuple(int(size) for size in shapes[spec.name])
        if len(shape) != len(spec.shape) or any(size < 1 for size in shape):
            raise BackendError(
                f'The tensor "{spec.name}" has the shape {format_shape(shape)}',
                f"the manifest states {format_shape(spec.shape)}",
                "Build the engine again",
            )
        size = math.prod(shape) * np.dtype(spec.dtype).itemsize
        regions[spec.name] = Region(spec.name, spec.dtype, shape, offset, size)
        offset += -(-size // alignment) * alignment
    return BufferPlan(regions, offset)
