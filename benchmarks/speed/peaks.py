"""What the machine could do at most: matrix products per precision, and memory bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

SIDE = 2048
"""Of the matrices: large enough that a product is bound by arithmetic, 17 GFLOP."""

STREAM_BYTES = 256 * 10**6
"""Of each array that is streamed: beyond every cache."""


@dataclass(frozen=True)
class Peak:
    """A limit that is measured: `step` does `amount` operations or bytes once."""

    name: str
    unit: str
    amount: float
    step: Callable[[], object]

    def sample(self) -> float:
        """One measurement, per second."""
        begin = time.perf_counter()
        self.step()
        return self.amount / (time.perf_counter() - begin)


def peaks(threads: int) -> Iterator[Peak]:
    """What is measured: float32, bfloat16 and int8 products of torch, the same of ONNX Runtime in float32 and
    int8, and a triad ``c = a + s * b`` over three arrays."""
    import torch

    torch.set_num_threads(threads)
    flop = 2.0 * SIDE**3
    real = torch.randn(SIDE, SIDE)
    yield Peak("sgemm, torch", "FLOP/s", flop, lambda: torch.mm(real, real))
    half = real.to(torch.bfloat16)
    yield Peak("bf16 gemm, torch", "FLOP/s", flop, lambda: torch.mm(half, half))
    whole = torch.randint(-100, 100, (SIDE, SIDE), dtype=torch.int8)
    yield Peak("int8 gemm, torch", "FLOP/s", flop, lambda: torch._int_mm(whole, whole))
    yield Peak("sgemm, onnxruntime", "FLOP/s", flop, _onnx_product("MatMul", threads))
    yield Peak("int8 gemm, onnxruntime", "FLOP/s", flop, _onnx_product("MatMulInteger", threads))
    a, b, c = (torch.full((STREAM_BYTES // 4,), value) for value in (1.0, 2.0, 0.0))
    yield Peak("memory, triad", "B/s", 3.0 * STREAM_BYTES, lambda: torch.add(a, b, alpha=1.5, out=c))


def _onnx_product(operator: str, threads: int) -> Callable[[], object]:
    """A product of two square matrices; in int8 the right one is a weight, as in a quantised network."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    left: np.ndarray
    right: np.ndarray
    if operator == "MatMul":
        left = right = random.standard_normal((SIDE, SIDE), dtype=np.float32)
        kinds = (TensorProto.FLOAT, TensorProto.FLOAT)
    else:
        left = random.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        right = random.integers(-64, 65, (SIDE, SIDE), dtype=np.int8)
        kinds = (TensorProto.UINT8, TensorProto.INT32)
    shape = [SIDE, SIDE]
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", kinds[0], shape)],
        [helper.make_tensor_value_info("c", kinds[1], shape)],
        [numpy_helper.from_array(right, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": left})
