"""How much a network computes: the products of its graph, counted at the shapes that occur in a run.

ONNX Runtime's profiler tells every node's shapes, also where shape inference on paper does not get through.
The graph runs as it was exported, so that no fusion hides a product.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agesdk.bundle import Bundle

_ITEM_SIZE = {"float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "double": 8, "int64": 8}
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Work:
    """Floating-point operations (a multiply-add is two) of the products of one run, and the bytes they read
    and write if each is read and written once: weights and activations."""

    flop: int
    bytes: int

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.flop / self.bytes


def count_work(bundle: Bundle, component: str, feeds: Mapping[str, np.ndarray]) -> Work:
    """The work of one run of a component with these feeds. It is run once, slowly."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.add_session_config_entry("session.disable_prepacking", "1")  # packed weights have no shape
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(
            str(bundle.component_path(component)), options, providers=["CPUExecutionProvider"]
        )
        session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    flop = size = 0
    for event in events:
        arguments = event.get("args", {})
        if event.get("name", "").endswith("_kernel_time") and arguments.get("op_name") in _PRODUCTS:
            read, written = arguments["input_type_shape"], arguments["output_type_shape"][:1]
            inputs, output = _shapes(read), _shapes(written)[0]
            flop += 2 * math.prod(output) * _depth(arguments["op_name"], inputs, output)
            size += sum(_bytes(entry) for entry in (*read, *written))
    return Work(flop, size)


def _bytes(described: dict[str, list[int]]) -> int:
    """Of ``{"float16": [1, 2]}``. Quantised graphs are counted as they were exported: products of floats."""
    return sum(_ITEM_SIZE.get(kind, 4) * math.prod(shape) for kind, shape in described.items())


def _shapes(described: list[dict[str, list[int]]]) -> list[list[int]]:
    """Of ``[{"float": [1, 2]}, ...]``."""
    return [shape for entry in described for shape in entry.values()]


def _depth(operator: str, inputs: list[list[int]], output: list[int]) -> int:
    """Multiply-adds of one element of the output."""
    if operator == "Conv":
        return math.prod(inputs[1][1:])
    if operator == "ConvTranspose":  # every input element meets every weight of its channel
        total: Any = math.prod(inputs[0]) * math.prod(inputs[1][1:])
        return max(1, total // math.prod(output))
    if operator == "Gemm":
        return math.prod(inputs[0]) // output[0]
    return inputs[0][-1]
