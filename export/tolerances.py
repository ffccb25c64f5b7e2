"""How much a component may differ from its golden, chosen by measurement.

Between two numbers: what differs anyway (the noise: against torch for fp32, with every value rounded as a GPU
does for fp16, between ONNX Runtime's 8-bit kernels and the same graph computed in float32 for int8), and the
least that a weight tensor scaled by 1.1 changes. The tolerance is their geometric mean, so a damaged weight
fails and another machine's rounding does not. In 8 bits one value that rounds the other way early in a deep
network changes everything after it a little: there the noise covers the smallest of such damages.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from agesdk.bundle import Tolerance
from agesdk.goldens import difference

from . import half_rounding

logger = logging.getLogger(__name__)

Arrays = Mapping[str, np.ndarray]

SCALED_BY = 1.1
MAX_TENSORS = 12
"""Weight tensors that are tried, spread over the graph."""
MAX_BYTES = 64 * 2**20
"""Of larger graphs only the noise is measured: every tensor would cost another run of minutes."""
LEAST_NOISE = {"float": (1e-5, 1e-6), "picture": (0.5, 2e-4)}
"""Largest and mean difference that is always granted to other machines: relative to the largest value, and in
grey levels (half a level: the tolerance of a picture is a whole one at least)."""
LARGE_NOISE = 30.0
"""The tolerance of a large graph, in units of its noise."""
VISIBLE = 1.5
"""A scaled weight tensor counts if it changes the mean by this many times the noise."""
LEAST_FACTOR = 1.25
"""The least tolerance in units of the noise."""


def measure(model: Path, precision: str, golden: Arrays) -> dict[str, Tolerance]:
    """Tolerances of a component's outputs.

    Parameters
    ----------
    model:
        The graph.
    golden:
        Arrays ``input.<name>`` and ``output.<name>``; for int8 the outputs are the graph's own.
    """
    feeds = {
        name.removeprefix("input."): array for name, array in golden.items() if name.startswith("input.")
    }
    recorded = {name.removeprefix("output."): a for name, a in golden.items() if name.startswith("output.")}
    noise = {name: LEAST_NOISE["picture" if a.dtype == np.uint8 else "float"] for name, a in recorded.items()}
    for name, array in recorded.items():
        if array.dtype != np.uint8:
            largest = max(float(np.abs(array).max(initial=0.0)), 1e-12)
            noise[name] = (noise[name][0] * largest, noise[name][1] * largest)
    large = sum(path.stat().st_size for path in model.parent.glob(f"{model.name}*")) > MAX_BYTES
    got = (
        half_rounding.run(model, feeds)
        if precision == "fp16" and not large
        else run(model, feeds, optimized=precision != "int8", folded=not large)
    )
    for name, array in recorded.items():
        seen = difference(array, got[name])
        noise[name] = (max(noise[name][0], seen[0]), max(noise[name][1], seen[1]))
    if large:
        return {name: _tolerance(noise[name], LARGE_NOISE**2 * noise[name][1]) for name in recorded}
    least = dict.fromkeys(recorded, np.inf)
    tensors = weight_tensors(onnx.load(model))
    chosen = tensors[:: -(-len(tensors) // MAX_TENSORS)] if tensors else []
    visible = 0
    for _, changed in scaled(model, chosen):
        got = run(changed, feeds, optimized=precision == "int8")
        effects = {name: difference(array, got[name])[1] for name, array in recorded.items()}
        seen_in = [name for name in recorded if effects[name] > VISIBLE * noise[name][1]]
        visible += bool(seen_in)
        for name in seen_in:
            least[name] = min(least[name], effects[name])
    logger.info("%s: %d of %d scaled weight tensors stand out of the noise", model, visible, len(chosen))
    return {name: _tolerance(noise[name], least[name]) for name in recorded}


def _tolerance(noise: tuple[float, float], effect: float) -> Tolerance:
    largest, mean = noise
    factor = max(LEAST_FACTOR, float(np.sqrt(effect / mean)) if np.isfinite(effect) else 0.0)
    mean_abs = factor * mean
    max_abs = max(min(factor, 4.0) * largest, mean_abs)
    return Tolerance(max_abs=_rounded_up(max_abs), mean_abs=_rounded_up(mean_abs))


def _rounded_up(value: float) -> float:
    return float(f"{value * 1.005:.3g}")


def weight_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the initializers that are weights: matrices and kernels, or the scales of 8-bit ones."""
    scales = {node.input[1]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for name, tensor in tensors.items():
        quantized = tensors.get(scales.get(name, ""))
        if quantized is not None:
            if quantized.data_type in (TensorProto.INT8, TensorProto.UINT8):
                found.append(name)
        elif tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16) and len(tensor.dims) > 1:
            array = numpy_helper.to_array(tensor)
            if array.size > 1 and array.any():
                found.append(name)
    return found


def scaled(path: Path, names: list[str], factor: float = SCALED_BY) -> Iterator[tuple[str, bytes]]:
    """For each named initializer the graph with that one multiplied, serialised."""
    model = onnx.load(path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in names:
        original = tensors[name].SerializeToString()
        array = numpy_helper.to_array(tensors[name])
        tensors[name].CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), name))
        yield name, model.SerializeToString()
        tensors[name].ParseFromString(original)


def run(
    model: Path | bytes, feeds: Arrays, optimized: bool = True, folded: bool = True
) -> dict[str, np.ndarray]:
    """The outputs of a graph in ONNX Runtime on the CPU.

    Unoptimised, a graph opens sooner and runs slower, and QDQ graphs are computed in float32. Not folded, the
    weights stay as they are stored: half of a CPU's float16 graph, whose casts would be folded into them.
    """
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    # Packed copies of the weights pay off over many runs.
    options.add_session_config_entry("session.disable_prepacking", "1")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(
        source,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=None if folded else ["ConstantFolding"],
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))
