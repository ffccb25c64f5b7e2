"""Static 8-bit quantisation of a component for CPUs: QDQ graphs, weights per channel, layers left out by
measurement.

Matrix products and convolutions get unsigned 8-bit activations and signed 8-bit weights, the pair for which
CPUs have dot products (VNNI, AMX, Arm's dot product); everything else stays float32. Ranges of activations
come from what the component really sees (`export.calibration`). A layer whose quantisation damages the aged
crop too much stays float32: `leave_out` measures that layer by layer.

The quantiser is ONNX Runtime's.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType, create_calibrator
from onnxruntime.quantization.calibrate import CalibrationDataReader
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from .calibration import Feeds
from .onnx_export import DATA_NAME, MAX_SINGLE_FILE_BYTES, MODEL_NAME
from .storage import expand_halves

logger = logging.getLogger(__name__)

OPERATORS = ("Conv", "MatMul", "Gemm")
PERCENTILE = 99.99
"""Of the activations' histogram, on both sides: what lies beyond is clipped (docs/precision.md compares it
with the full range and with entropy)."""
HISTOGRAM_BINS = 2048

Layer = tuple[str, str]
"""Component and node."""


class Quantizer:
    """One component's float32 graph with the measured ranges of its activations.

    Attributes
    ----------
    layers:
        Names of the nodes that can be quantised, in the graph's order.
    """

    def __init__(self, path: Path, feeds: Sequence[Feeds]) -> None:
        """Read the graph and run it on the feeds to measure ranges."""
        self._model = onnx.load(path)
        expand_halves(self._model)
        # The quantiser infers shapes itself and fails where recorded ones differ.
        del self._model.graph.value_info[:]
        for index, node in enumerate(self._model.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"
        constants = {tensor.name for tensor in self._model.graph.initializer}
        self.layers = [
            node.name
            for node in self._model.graph.node
            if node.op_type in OPERATORS and not set(node.input) <= constants
        ]
        self._ranges = _ranges(self._model, feeds)

    def quantized(self, layers: Sequence[str]) -> onnx.ModelProto:
        """A graph with these layers, one at least, in 8 bits and the rest in float32."""
        model = copy.deepcopy(self._model)
        with _quiet():
            quantizer = QDQQuantizer(
                model,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=self._ranges,
                nodes_to_quantize=list(layers),
                nodes_to_exclude=[],
                op_types_to_quantize=list(OPERATORS),
                extra_options={"ActivationSymmetric": False},
            )
            quantizer.quantize_model()
        quantized: onnx.ModelProto = quantizer.model.model
        quantized.producer_name = "agesdk"
        return quantized


def write(model: onnx.ModelProto, folder: Path) -> tuple[str, ...]:
    """Write a graph, large weights beside it; the model's own are dropped then. The names of the files."""
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MAX_SINGLE_FILE_BYTES
    onnx.save(model, folder / MODEL_NAME, save_as_external_data=large, location=DATA_NAME if large else None)
    return (MODEL_NAME, DATA_NAME) if large else (MODEL_NAME,)


def leave_out(
    layers: Sequence[Layer],
    damage: Callable[[Sequence[Layer]], float],
    limit: float,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[list[Layer], float]:
    """The layers to quantise: all, or all but the worst, so that the damage stays below a limit.

    If all together are beyond the limit, each layer is quantised alone to measure its own damage; then the
    worst are left out, one more at a time, until the others together are below the limit.

    Parameters
    ----------
    damage:
        What quantising these layers does to the result, in an error that adds up (mean squared error).

    Returns
    -------
    (layers, damage)
        In the order given; empty, with no damage, if no choice stays below the limit.
    """
    everything = damage(layers)
    logger.info("all %d layers: damage %.3g, limit %.3g", len(layers), everything, limit)
    if everything <= limit:
        return list(layers), everything
    alone: dict[Layer, float] = {}
    for count, layer in enumerate(layers):
        alone[layer] = damage([layer])
        if progress is not None:
            progress(count + 1, len(layers))
    worst = sorted(layers, key=lambda layer: -alone[layer])
    for number in range(1, len(layers)):
        kept = [layer for layer in layers if layer not in worst[:number]]
        found = damage(kept)
        logger.info("%d layers left out: damage %.3g, limit %.3g", number, found, limit)
        if found <= limit:
            for layer in worst[:number]:
                logger.info("%s/%s stays float32: alone it does %.3g", *layer, alone[layer])
            return kept, found
    return [], 0.0


def _ranges(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> Any:
    """ONNX Runtime's ranges of the activations, by tensor."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path, augmented = Path(folder) / "model.onnx", Path(folder) / "augmented.onnx"
        large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > 2**30
        onnx.save(copy.deepcopy(model) if large else model, path, save_as_external_data=large)
        calibrator = create_calibrator(
            str(path),
            list(OPERATORS),
            str(augmented),
            calibrate_method=CalibrationMethod.Percentile,
            use_external_data_format=large,
            extra_options={"num_bins": HISTOGRAM_BINS, "percentile": PERCENTILE},
        )
        for feed in feeds:
            calibrator.collect_data(_OneByOne([feed]))
        return calibrator.compute_data()


class _OneByOne(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Any:
        return next(self._feeds, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's quantiser prints its progress and warns about every tensor without a range."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        root.setLevel(level)
