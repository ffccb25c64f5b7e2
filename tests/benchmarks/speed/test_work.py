"""Operations are counted as the definition of each product says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.speed.work import count_work


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


@pytest.mark.parametrize(
    "node, weights, shape, flop, elements",
    [
        # 2 × batch × channels out × positions × channels in × kernel
        (
            ("Conv", {"pads": [1, 1, 1, 1]}),
            (16, 8, 3, 3),
            (2, 8, 10, 12),
            2 * 2 * 16 * 120 * 8 * 9,
            2 * 8 * 120 + 16 * 8 * 9 + 2 * 16 * 120,
        ),
        (
            ("Conv", {"group": 8}),
            (8, 1, 1, 1),
            (1, 8, 4, 4),
            2 * 8 * 16,
            8 * 16 + 8 + 8 * 16,
        ),
        # every input element meets channels out × kernel weights
        (
            ("ConvTranspose", {"strides": [2, 2]}),
            (8, 4, 2, 2),
            (1, 8, 5, 5),
            2 * 8 * 25 * 4 * 4,
            8 * 25 + 8 * 4 * 4 + 4 * 100,
        ),
        (("MatMul", {}), (32, 7), (3, 5, 32), 2 * 3 * 5 * 32 * 7, 3 * 5 * 32 + 32 * 7 + 3 * 5 * 7),
        (("Gemm", {"transB": 1}), (7, 32), (5, 32), 2 * 5 * 32 * 7, 5 * 32 + 7 * 32 + 5 * 7),
    ],
)
def test_a_product_is_counted_by_its_definition(
    tmp_path: Path,
    node: tuple[str, dict[str, Any]],
    weights: tuple[int, ...],
    shape: tuple[int, ...],
    flop: int,
    elements: int,
) -> None:
    operator, attributes = node
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node(operator, ["a", "w"], ["y"], **attributes),
        ],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight("w", *weights)],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    bundle: Any = SimpleNamespace(component_path=lambda name: path)
    work = count_work(bundle, "one", {"x": np.ones(shape, np.float32)})
    assert (work.flop, work.bytes) == (flop, 4 * elements)
