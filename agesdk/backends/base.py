"""The `Engine` protocol, the checks every backend shares, and `load_engine`.

An engine runs one component of a bundle. What it returns stays where the backend keeps it (host memory, a
GPU) and may be fed to another engine of the same backend; only `to_host` brings it back. The provider asked
for is the provider used, or a `BackendError` says why not and what to install.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeAlias

import numpy as np

from agesdk.bundle import Bundle, Component, TensorSpec
from agesdk.errors import BackendError, UsageError

Tensor: TypeAlias = Any
"""A `numpy.ndarray`, or a backend's own device tensor as returned by `Engine.run`."""

BACKENDS = ("onnxruntime", "tensorrt", "tensorrt-rtx")


class Engine(Protocol):
    """One loaded graph.

    Attributes
    ----------
    name:
        The component's name in the bundle.
    inputs, outputs:
        Name, dtype and symbolic shape of every tensor, as the manifest states them.
    profile:
        (min, opt, max) of every symbolic axis.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profile: dict[str, tuple[int, int, int]]

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph on exactly the inputs it declares; every output, by name, on the backend's device.

        Raises `BackendError` when a name, dtype or shape does not fit the manifest or the runtime fails.
        """
        ...

    def to_device(self, array: np.ndarray) -> Tensor:
        """The array where the backend computes, for a feed of many runs (the array itself on the CPU)."""
        ...

    def to_host(self, tensor: Tensor) -> np.ndarray:
        """The tensor as a `numpy.ndarray` in host memory (the tensor itself when it is one already)."""
        ...

    def guide(self, halves: Tensor, scale: float) -> Tensor:
        """Classifier-free guidance without leaving the device; see `mix_guidance`."""
        ...


def load_engine(
    bundle: Bundle,
    component: str,
    backend: str = "onnxruntime",
    provider: str | None = None,
    threads: int | None = None,
) -> Engine:
    """Open one component of a bundle for running.

    The component's files are verified (size and SHA-256) before the graph is opened, unless the bundle was
    verified when it was opened.

    Parameters
    ----------
    component:
        A name from `bundle.manifest.components`.
    backend:
        One of `BACKENDS`.
    provider:
        Where ``onnxruntime`` runs: ``cpu`` (which None means), ``cuda``, ``tensorrt``, ``tensorrt-rtx``. The
        native backends run engines of ``python -m engines build`` on the GPU and have none to choose.
    threads:
        Threads used inside an operator; None lets the backend choose (all physical cores).

    Raises
    ------
    UsageError
        Unknown backend or provider, a provider of a native backend, threads below 1.
    BackendError
        A backend or provider that is not installed or does not start, a graph that does not load or does not
        have the inputs and outputs the manifest states.
    BundleError
        A component the bundle does not have, or files that are not the ones the manifest describes.
    """
    if threads is not None and threads < 1:
        raise UsageError(
            f"{threads} threads can not run anything.", "", "Give 1 or more, or None for the default."
        )
    if backend == "onnxruntime":
        from agesdk.backends.ort import OrtEngine

        return OrtEngine(bundle, component, provider="cpu" if provider is None else provider, threads=threads)
    if backend in ("tensorrt", "tensorrt-rtx"):
        if provider is not None:
            raise UsageError(
                f'The backend "{backend}" has no provider "{provider}"',
                "it runs compiled engines on the GPU; providers are those of ONNX Runtime",
                'Leave the provider out, or use backend="onnxruntime"',
            )
        from agesdk.backends.tensorrt import TensorrtEngine

        return TensorrtEngine(bundle, component, "tensorrt" if backend == "tensorrt" else "tensorrt-rtx")
    raise UsageError(
        f'The backend "{backend}" is unknown.',
        f"This version has {listed(BACKENDS)}.",
        did_you_mean(backend, BACKENDS),
    )


def mix_guidance(halves: np.ndarray, scale: float) -> np.ndarray:
    """Guide a batch and double it for the next step.

    Parameters
    ----------
    halves:
        float32 [2 B, ...]: without the condition, then with it.

    Returns
    -------
    numpy.ndarray
        float32 [2 B, ...]: ``null + scale * (conditioned - null)``, twice.
    """
    half = len(halves) // 2
    null, conditioned = halves[:half], halves[half:]
    both = np.empty_like(halves)
    guided = np.subtract(conditioned, null, out=both[:half])
    guided *= np.float32(scale)
    guided += null
    both[half:] = guided
    return both


def batch_slices(engine: Engine, count: int, copies: int = 1) -> list[slice]:
    """Cut `count` rows into as few parts of nearly equal size as the engine's largest batch allows.

    ``copies`` is how often each row stands in a batch (2 for guidance).
    """
    axis = engine.inputs[0].shape[0]
    largest = axis if isinstance(axis, int) else engine.profile[axis][2]
    if largest < copies:
        raise BackendError(
            f'A batch of {copies} is needed of component "{engine.name}".',
            f"Its largest is {largest}.",
            "Export the bundle with a larger batch, or use a guidance scale of 1.",
        )
    parts = -(-count // (largest // copies))
    edges = [count * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def run_batched(engine: Engine, feeds: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Run any number of rows (the first axis of every feed) and bring every output to the host.

    Rows beyond the engine's largest batch are run in parts, unless they are on the device.
    """
    if not all(isinstance(tensor, np.ndarray) for tensor in feeds.values()):
        return {name: engine.to_host(tensor) for name, tensor in engine.run(feeds).items()}
    count = len(next(iter(feeds.values())))
    parts = []
    for rows in batch_slices(engine, count):
        outputs = engine.run({name: array[rows] for name, array in feeds.items()})
        parts.append({name: engine.to_host(tensor) for name, tensor in outputs.items()})
    if len(parts) == 1:
        return parts[0]
    return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in engine.outputs}


def check_feeds(component: Component, described: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Compare feeds with a component's inputs.

    Parameters
    ----------
    described:
        For each feed its numpy dtype name and its shape.

    Raises
    ------
    BackendError
        The first difference: a missing or unknown name, a dtype, a rank, a fixed dimension, one symbol with
        two sizes, or a size outside the component's profile.
    """
    where = f'component "{component.name}"'
    expected = {spec.name: spec for spec in component.inputs}
    for name in described:
        if name not in expected:
            raise BackendError(f'"{name}" is not an input of {where}.', f"Its inputs are {listed(expected)}.")
    symbols: dict[str, tuple[int, str]] = {}
    for name, spec in expected.items():
        if name not in described:
            raise BackendError(f'The input "{name}" of {where} is missing.', f"It needs {listed(expected)}.")
        dtype, shape = described[name]
        if dtype != spec.dtype:
            raise BackendError(f'The input "{name}" of {where} is {dtype}.', _stated(spec))
        if len(shape) != len(spec.shape):
            raise BackendError(
                f'The input "{name}" of {where} has shape {format_shape(shape)}.', _stated(spec)
            )
        for size, wanted in zip(shape, spec.shape, strict=True):
            if isinstance(wanted, int):
                if size != wanted:
                    raise BackendError(
                        f'The input "{name}" of {where} has shape {format_shape(shape)}.', _stated(spec)
                    )
                continue
            first, first_name = symbols.setdefault(wanted, (size, name))
            if size != first:
                raise BackendError(
                    f'The inputs of {where} do not agree on "{wanted}".',
                    f'It is {first} in "{first_name}" and {size} in "{name}".',
                )
            low, _, high = component.profile.get(wanted, (0, 0, None))
            if size < low or (high is not None and size > high):
                raise BackendError(
                    f'"{wanted}" is {size} in the input "{name}" of {where}.',
                    f"The bundle's profile allows {low} to {high}.",
                )


def _stated(spec: TensorSpec) -> str:
    return f"The manifest states {spec.dtype} {format_shape(spec.shape)}."


def check_tensors(
    where: str,
    kind: str,
    specs: Sequence[TensorSpec],
    found: Mapping[str, tuple[str, Sequence[int | str | None]]],
) -> None:
    """Compare the tensors of a loaded graph or engine with the manifest's.

    Parameters
    ----------
    kind:
        ``inputs`` or ``outputs``, for the message.
    found:
        For each tensor its numpy dtype name and its shape; -1, None or a string is a dynamic axis.

    Raises
    ------
    BackendError
        The first difference.
    """
    if set(found) != {spec.name for spec in specs}:
        raise BackendError(
            f"The {kind} of {where} are {listed(found)}.",
            f"The manifest states {listed(spec.name for spec in specs)}.",
            "Export the bundle again.",
        )
    for spec in specs:
        dtype, shape = found[spec.name]
        same_shape = len(shape) == len(spec.shape) and all(
            size == wanted or not isinstance(size, int) or size < 0
            for size, wanted in zip(shape, spec.shape, strict=True)
        )
        if dtype != spec.dtype or not same_shape:
            raise BackendError(
                f'"{spec.name}" in {where} is {dtype} {format_shape(shape)}.',
                f"The manifest states {spec.dtype} {format_shape(spec.shape)}.",
                "Export the bundle again.",
            )


def format_shape(shape: Sequence[int | str | None]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"


def listed(names: Any) -> str:
    return ", ".join(f'"{name}"' for name in names)


def did_you_mean(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f'Did you mean "{close[0]}"?' if close else ""
