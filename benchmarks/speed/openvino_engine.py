"""OpenVINO as an engine under agesdk's own code: another runtime for the same graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from agesdk.backends.base import check_feeds, mix_guidance
from agesdk.bundle import Bundle
from agesdk.errors import UsageError


class OpenVinoEngine:
    """One component on the CPU, in the precision of its graph: by itself OpenVINO would compute in bfloat16
    where the processor has it."""

    def __init__(self, bundle: Bundle, component: str, threads: int) -> None:
        try:
            import openvino
        except ImportError:
            raise UsageError(
                "OpenVINO is not installed",
                "it is a peer, not a part of agesdk",
                'pip install "agesdk[peers]"',
            ) from None
        self._component = bundle.component(component)
        self.name, self.profile = component, self._component.profile
        self.inputs, self.outputs = self._component.inputs, self._component.outputs
        core: Any = openvino.Core()
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._request = core.compile_model(
            str(bundle.component_path(component)), "CPU", options
        ).create_infer_request()

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        check_feeds(self._component, {name: (array.dtype.name, array.shape) for name, array in feeds.items()})
        results = self._request.infer({name: np.ascontiguousarray(array) for name, array in feeds.items()})
        return {spec.name: np.array(results[spec.name]) for spec in self.outputs}

    def to_device(self, array: np.ndarray) -> np.ndarray:
        return array

    def to_host(self, tensor: np.ndarray) -> np.ndarray:
        return tensor

    def guide(self, halves: np.ndarray, scale: float) -> np.ndarray:
        return mix_guidance(halves, scale)
