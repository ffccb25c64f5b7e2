"""The TFLite converter on a graph written here, against the same network in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

flatbuffers = pytest.importorskip("flatbuffers")
tflite = pytest.importorskip("tflite")
torch = pytest.importorskip("torch")

import onnxruntime  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from export.tflite_convert import TFLiteConversionError, convert  # noqa: E402

SAME, VALID = 0, 1
NO_ACTIVATION, RELU = 0, 1


class Writer:
    """Just enough of the TFLite format to write one graph."""

    def __init__(self) -> None:
        self.builder = flatbuffers.Builder(4096)
        self.buffers: list[bytes] = [b""]
        self.tensors: list[tuple[tuple[int, ...], int, int]] = []
        self.operators: list[tuple[int, list[int], int, int, int]] = []
        self.codes: list[int] = []

    def tensor(self, shape: tuple[int, ...], data: np.ndarray | None = None) -> int:
        kinds = {np.dtype("float32"): 0, np.dtype("float16"): 1, np.dtype("int32"): 2}
        kind = 0 if data is None else kinds[data.dtype]
        if data is not None:
            self.buffers.append(np.ascontiguousarray(data).tobytes())
        self.tensors.append((shape, kind, 0 if data is None else len(self.buffers) - 1))
        return len(self.tensors) - 1

    def constant(self, data: np.ndarray) -> int:
        return self.tensor(data.shape, data)

    def operator(self, name: str, inputs: list[int], shape: tuple[int, ...], **options: int) -> int:
        output = self.tensor(shape)
        code = getattr(tflite.BuiltinOperator, name)
        if code not in self.codes:
            self.codes.append(code)
        kind, table = 0, 0
        if options:
            family = {
                "CONV_2D": "Conv2DOptions",
                "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
                "MAX_POOL_2D": "Pool2DOptions",
                "ADD": "AddOptions",
                "CONCATENATION": "ConcatenationOptions",
            }[name]
            module = __import__(f"tflite.{family}", fromlist=["Start"])
            module.Start(self.builder)
            for field, value in options.items():
                getattr(module, f"Add{field}")(self.builder, value)
            kind, table = getattr(tflite.BuiltinOptions, family), module.End(self.builder)
        self.operators.append((self.codes.index(code), inputs, output, kind, table))
        return output

    def finish(self, source: int, outputs: list[int]) -> bytes:
        b = self.builder
        buffers = []
        for data in self.buffers:
            vector = b.CreateByteVector(data) if data else None
            tflite.BufferStart(b)
            if vector is not None:
                tflite.BufferAddData(b, vector)
            buffers.append(tflite.BufferEnd(b))
        tensors = []
        for shape, kind, buffer in self.tensors:
            dims = self._ints(list(shape))
            tflite.TensorStart(b)
            tflite.TensorAddShape(b, dims)
            tflite.TensorAddType(b, kind)
            tflite.TensorAddBuffer(b, buffer)
            tensors.append(tflite.TensorEnd(b))
        operators = []
        for code, inputs, output, kind, table in self.operators:
            sources, results = self._ints(inputs), self._ints([output])
            tflite.OperatorStart(b)
            tflite.OperatorAddOpcodeIndex(b, code)
            tflite.OperatorAddInputs(b, sources)
            tflite.OperatorAddOutputs(b, results)
            if table:
                tflite.OperatorAddBuiltinOptionsType(b, kind)
                tflite.OperatorAddBuiltinOptions(b, table)
            operators.append(tflite.OperatorEnd(b))
        codes = []
        for code in self.codes:
            tflite.OperatorCodeStart(b)
            tflite.OperatorCodeAddDeprecatedBuiltinCode(b, code)
            tflite.OperatorCodeAddBuiltinCode(b, code)
            codes.append(tflite.OperatorCodeEnd(b))
        parts = [self._tables(tensors), self._ints([source]), self._ints(outputs), self._tables(operators)]
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, parts[0])
        tflite.SubGraphAddInputs(b, parts[1])
        tflite.SubGraphAddOutputs(b, parts[2])
        tflite.SubGraphAddOperators(b, parts[3])
        graphs = self._tables([tflite.SubGraphEnd(b)])
        code_vector, buffer_vector = self._tables(codes), self._tables(buffers)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, code_vector)
        tflite.ModelAddSubgraphs(b, graphs)
        tflite.ModelAddBuffers(b, buffer_vector)
        b.Finish(tflite.ModelEnd(b), file_identifier=b"TFL3")
        return bytes(b.Output())

    def _ints(self, values: list[int]) -> int:
        return self.builder.CreateNumpyVector(np.array(values, np.int32))

    def _tables(self, offsets: list[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()


def run(model: Any, image: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})


def test_a_converted_network_computes_what_torch_computes() -> None:
    """SAME padding on one side, half-precision depthwise weights, channel padding, a skip and two heads."""
    rng = np.random.default_rng(0)
    w1, b1 = rng.normal(size=(4, 3, 3, 3)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    w2, b2 = rng.normal(size=(1, 3, 3, 4)).astype(np.float16), rng.normal(size=4).astype(np.float32)
    slope = rng.uniform(0, 1, (1, 1, 4)).astype(np.float32)
    heads = [rng.normal(size=(2 * n, 1, 1, 6)).astype(np.float32) for n in (1, 3)]

    w = Writer()
    source = w.tensor((1, 12, 16, 3))
    step = {"StrideH": 2, "StrideW": 2, "DilationHFactor": 1, "DilationWFactor": 1}
    x = w.operator("CONV_2D", [source, w.constant(w1), w.constant(b1)], (1, 6, 8, 4), Padding=SAME, **step)
    x = w.operator("PRELU", [x, w.constant(slope)], (1, 6, 8, 4))
    kernel = w.operator("DEQUANTIZE", [w.constant(w2)], w2.shape)
    one = {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1, "DepthMultiplier": 1}
    y = w.operator("DEPTHWISE_CONV_2D", [x, kernel, w.constant(b2)], (1, 6, 8, 4), Padding=SAME, **one)
    x = w.operator("ADD", [x, y], (1, 6, 8, 4), FusedActivationFunction=RELU)
    pool = {"StrideH": 2, "StrideW": 2, "FilterHeight": 2, "FilterWidth": 2}
    x = w.operator("MAX_POOL_2D", [x], (1, 3, 4, 4), Padding=VALID, **pool)
    pads = w.constant(np.array([[0, 0], [0, 0], [0, 0], [0, 2]], np.int32))
    x = w.operator("PAD", [x, pads], (1, 3, 4, 6))
    flat = []
    for weight in heads:
        zero = w.constant(np.zeros(len(weight), np.float32))
        shape = (1, 3, 4, len(weight))
        unit = {**step, "StrideH": 1, "StrideW": 1}
        head = w.operator("CONV_2D", [x, w.constant(weight), zero], shape, Padding=VALID, **unit)
        flat.append(w.operator("RESHAPE", [head], (1, 12 * len(weight) // 2, 2)))
    joined = w.operator("CONCATENATION", flat, (1, 48, 2), Axis=1)
    model = convert(
        w.finish(source, [joined]), name="t", scale=2 / 255, offset=-1.0, outputs={"out": (0, (48, 2))}
    )

    image = rng.integers(0, 256, (3, 12, 16, 3), dtype=np.uint8)
    (got,) = run(model, image)

    t = torch.from_numpy(image.astype(np.float32) * 2 / 255 - 1).permute(0, 3, 1, 2)
    # 12 and 16 pixels, kernel 3, stride 2: one row and column of padding, below and to the right.
    t = F.conv2d(
        F.pad(t, (0, 1, 0, 1)), torch.from_numpy(w1).permute(0, 3, 1, 2), torch.from_numpy(b1), stride=2
    )
    t = F.prelu(t, torch.from_numpy(slope.ravel()))
    depthwise = torch.from_numpy(w2.astype(np.float32)).permute(3, 0, 1, 2)
    t = F.relu(t + F.conv2d(t, depthwise, torch.from_numpy(b2), padding=1, groups=4))
    t = F.pad(F.max_pool2d(t, 2), (0, 0, 0, 0, 0, 2))
    parts = []
    for weight in heads:
        head = F.conv2d(t, torch.from_numpy(weight).permute(0, 3, 1, 2))
        parts.append(head.permute(0, 2, 3, 1).reshape(3, -1, 2))
    assert np.allclose(got, torch.cat(parts, dim=1).numpy(), atol=1e-4)


def test_graph_has_the_promised_edges() -> None:
    w = Writer()
    source = w.tensor((1, 4, 4, 3))
    out = w.operator("RELU", [source], (1, 4, 4, 3))
    model = convert(w.finish(source, [out]), name="t", scale=1.0, offset=0.0, outputs={"y": (0, (4, 4, 3))})
    (image,) = model.graph.input
    dims = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert (image.name, dims) == ("image", ["batch", 4, 4, 3])
    assert model.opset_import[0].version == 18
    picture = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
    assert np.array_equal(run(model, picture)[0], picture.astype(np.float32))


def test_what_is_not_known_is_refused_by_name() -> None:
    w = Writer()
    source = w.tensor((1, 4, 4, 3))
    out = w.operator("LOGISTIC", [source], (1, 4, 4, 3))
    with pytest.raises(TFLiteConversionError, match="LOGISTIC"):
        convert(w.finish(source, [out]), name="t", scale=1.0, offset=0.0, outputs={"y": (0, (4, 4, 3))})


def test_an_output_of_another_size_is_refused() -> None:
    w = Writer()
    source = w.tensor((1, 4, 4, 3))
    out = w.operator("RELU", [source], (1, 4, 4, 3))
    with pytest.raises(TFLiteConversionError, match="Output 0"):
        convert(w.finish(source, [out]), name="t", scale=1.0, offset=0.0, outputs={"y": (0, (7,))})
