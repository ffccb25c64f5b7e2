"""ONNX Runtime as a backend: on the CPU as the default, on NVIDIA GPUs through its execution providers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from agesdk.backends.base import Tensor, check_feeds, check_tensors, mix_guidance
from agesdk.backends.ort_cache import cached_graph, forget
from agesdk.backends.ort_errors import explain
from agesdk.backends.ort_session import Provider, import_onnxruntime, open_session
from agesdk.bundle import Bundle, Component, TensorSpec
from agesdk.errors import BackendError

_NUMPY_OF_ORT = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
logger = logging.getLogger(__name__)

_GUIDANCE_GRAPH = "data/guidance.onnx"


class OrtEngine:
    """One component in an ONNX Runtime session; see `agesdk.backends.load_engine` for the parameters.

    On the CPU, tensors are numpy arrays. On a GPU, outputs are `onnxruntime.OrtValue` in its memory; arrays
    are copied there when they are fed, or once by `to_device`.
    """

    def __init__(
        self, bundle: Bundle, component: str, provider: str = "cpu", threads: int | None = None
    ) -> None:
        self._component = bundle.component(component)
        self.name = component
        self.provider = provider
        self.inputs = self._component.inputs
        self.outputs = self._component.outputs
        self.profile = self._component.profile
        self._threads = threads
        self._output_names = [spec.name for spec in self.outputs]
        self._ort = import_onnxruntime()
        self._session, opened = self._open(bundle)
        self._memory = opened.memory
        self._guidance: Any = None
        self._check_session()

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_feeds(self._component, {name: _describe(tensor) for name, tensor in feeds.items()})
        try:
            if self._memory is None:
                results = self._session.run(self._output_names, dict(feeds))
            else:
                results = self._run_bound(self._session, feeds, self._output_names)
        except Exception as error:  # ONNX Runtime's exceptions have no common public base
            raise self._failed(f'Running the component "{self.name}"', error) from error
        return dict(zip(self._output_names, results, strict=True))

    def to_device(self, array: np.ndarray) -> Tensor:
        if self._memory is None:
            return array
        try:
            return self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), *self._memory)
        except Exception as error:  # ONNX Runtime's exceptions have no common public base
            raise self._failed(f'Copying an input of "{self.name}"', error) from error

    def to_host(self, tensor: Tensor) -> np.ndarray:
        return tensor if isinstance(tensor, np.ndarray) else tensor.numpy()

    def guide(self, halves: Tensor, scale: float) -> Tensor:
        if isinstance(halves, np.ndarray):
            return mix_guidance(halves, scale)
        if self._guidance is None:
            graph = files("agesdk").joinpath(_GUIDANCE_GRAPH).read_bytes()
            self._guidance, _ = open_session(graph, _guidance_component(self), self.provider, self._threads)
        feeds = {"halves": halves, "scale": np.array([scale], np.float32)}
        try:
            return self._run_bound(self._guidance, feeds, ["guided"])[0]
        except Exception as error:  # ONNX Runtime's exceptions have no common public base
            raise self._failed(f'Guidance of "{self.name}"', error) from error

    def _open(self, bundle: Bundle) -> tuple[Any, Provider]:
        path = str(bundle.component_path(self.name))
        arguments = self._component, self.provider, self._threads
        if self.provider == "cpu":

            def save(target: Path) -> None:
                open_session(path, *arguments, save_to=target)

            kept = cached_graph(bundle, self.name, self._ort.__version__, save)
            if kept is not None:
                try:
                    return open_session(str(kept), *arguments, optimised=True)
                except BackendError as error:
                    logger.warning("a kept graph does not open and is made anew: %s", error)
                    forget(kept)
        return open_session(path, *arguments)

    def _run_bound(self, session: Any, feeds: Mapping[str, Tensor], outputs: list[str]) -> list[Tensor]:
        binding = session.io_binding()
        for name, tensor in feeds.items():
            binding.bind_ortvalue_input(
                name, self.to_device(tensor) if isinstance(tensor, np.ndarray) else tensor
            )
        device, index, _ = self._memory or ("cpu", 0, -1)
        for name in outputs:
            binding.bind_output(name, device, index)
        session.run_with_iobinding(binding)
        return list(binding.get_outputs())

    def _failed(self, what: str, error: Exception) -> BackendError:
        advice = explain(error)
        return BackendError(f"{what} on {self.provider} failed.", advice.why, advice.fix)

    def _check_session(self) -> None:
        """The graph's inputs and outputs must be those the manifest states (symbols may differ in name)."""
        for kind, specs, nodes in (
            ("inputs", self.inputs, self._session.get_inputs()),
            ("outputs", self.outputs, self._session.get_outputs()),
        ):
            graph = {node.name: (_NUMPY_OF_ORT.get(node.type, node.type), node.shape) for node in nodes}
            check_tensors(f'the graph of "{self.name}"', kind, specs, graph)


def _guidance_component(engine: OrtEngine) -> Component:
    """What `open_session` needs to know of the guidance graph beside a denoiser."""
    sample = next(spec for spec in engine.outputs if spec.name == "next_sample")
    halves, scale = replace(sample, name="halves"), TensorSpec("scale", "float32", (1,))
    guided = replace(sample, name="guided")
    return Component("guidance", "fp32", ("guidance.onnx",), (halves, scale), (guided,), engine.profile)


@cache
def _dtype_name(dtype: np.dtype[Any]) -> str:
    """numpy builds the name anew each time it is asked, which every feed of every step would pay for."""
    return dtype.name


def _describe(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    if isinstance(tensor, np.ndarray):
        return _dtype_name(tensor.dtype), tensor.shape
    if hasattr(tensor, "data_type"):
        return _NUMPY_OF_ORT.get(tensor.data_type(), tensor.data_type()), tuple(tensor.shape())
    raise BackendError(
        f"A feed is a {type(tensor).__name__}.", "Feeds are numpy arrays or this backend's tensors."
    )
