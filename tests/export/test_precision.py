"""Half precision in the graph: close to float32, float32 at the edges, one type per operator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from export import parity
from export.checkpoint import EXPECTED, load_module
from export.errors import ParityError
from export.graphs import Denoise, Graph, VaeDecoder
from export.onnx_export import export_graph
from export.precision import mixed_types

MAKERS: dict[str, Callable[[Path], Graph]] = {
    "vae_decoder": lambda c: VaeDecoder(load_module(c / "vae", EXPECTED["vae"]), 4, 8, (128, 128, 128)),
    "denoise": lambda c: Denoise(load_module(c / "unet", EXPECTED["unet"]), 4, (16,) * 3, (2, 8), True),
}


@pytest.fixture(scope="module")
def half(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Component -> half-precision graph, each compared with torch's float32 inside the limits."""
    folder = tmp_path_factory.mktemp("half")
    for name, make in MAKERS.items():
        graph = make(small_checkpoint)
        records = [parity.record(graph, sizes, seed) for seed, sizes in enumerate(graph.parity_sizes())]
        export_graph(graph, folder / name, "fp16")
        differences = parity.check(name, folder / name / "model.onnx", "fp16", records)
        # A graph left in float32 would be closer than half precision can be.
        assert max(found.relative for found in differences) > 1e-6
    return {name: folder / name / "model.onnx" for name in MAKERS}


@pytest.mark.parametrize("name", MAKERS)
def test_edges_stay_float32_and_weights_are_half(half: dict[str, Path], name: str) -> None:
    model = onnx.load(half[name])
    edges = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert edges <= {TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64}
    sizes = dict.fromkeys((TensorProto.FLOAT, TensorProto.FLOAT16), 0)
    for tensor in model.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    assert sizes[TensorProto.FLOAT16] > 20 * sizes[TensorProto.FLOAT]


def test_timesteps_keep_their_resolution(half: dict[str, Path]) -> None:
    """999 in float16 is exact, 999 times a frequency is not: the angles must be float32."""
    model = onnx.shape_inference.infer_shapes(onnx.load(half["denoise"]))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    sinusoids = [node for node in model.graph.node if node.op_type in ("Sin", "Cos")]
    assert len(sinusoids) == 2
    assert {types[node.input[0]] for node in sinusoids} == {TensorProto.FLOAT}


def test_norms_are_float32_islands_and_attention_is_half(half: dict[str, Path]) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(half["denoise"]))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    by_op: dict[str, set[int]] = {}
    for node in model.graph.node:
        by_op.setdefault(node.op_type, set()).add(types.get(node.output[0], 0))
    assert by_op["InstanceNormalization"] == {TensorProto.FLOAT}
    assert by_op["Conv"] == by_op["Softmax"] == {TensorProto.FLOAT16}


def test_a_type_mix_that_onnx_lets_pass_is_found() -> None:
    """Concat of float16 and float32: valid for onnx.checker, refused by TensorRT."""
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Concat", ["a", "b"], ["c"], axis=0)],
        "mix",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT16, [2]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, [2]),
        ],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model)
    found = mixed_types(ir.from_proto(model))
    assert len(found) == 1 and "Concat" in found[0]


@pytest.mark.parametrize(
    "expected, got, precision, good",
    [
        (np.array([1.0, -2.0], np.float32), np.array([1.0, -2.0001], np.float32), "fp32", True),
        (np.array([1.0, -2.0], np.float32), np.array([1.0, -2.001], np.float32), "fp32", False),
        (np.array([1.0, -2.0], np.float32), np.array([1.0, -2.001], np.float32), "fp16", True),
        (np.array([1.0, -2.0], np.float32), np.array([1.0, np.nan], np.float32), "fp16", False),
        (np.array([1.0, -2.0], np.float32), np.array([[1.0, -2.0]], np.float32), "fp32", False),
        (np.zeros(200, np.uint8), np.eye(1, 200, dtype=np.uint8)[0], "fp32", True),
        (np.zeros(200, np.uint8), 2 * np.eye(1, 200, dtype=np.uint8)[0], "fp32", False),
        (np.zeros(200, np.uint8), np.ones(200, np.uint8), "fp32", False),
    ],
)
def test_limits(expected: np.ndarray, got: np.ndarray, precision: str, good: bool) -> None:
    found = parity.difference("x", [expected], [got])
    if good:
        parity.judge("part", precision, found, pictures=expected.dtype == np.uint8)
    else:
        with pytest.raises(ParityError, match="x of part differs"):
            parity.judge("part", precision, found, pictures=expected.dtype == np.uint8)
