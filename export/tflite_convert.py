"""Convert a convolutional TensorFlow Lite graph to an ONNX graph with pictures at its input.

The converter knows the operators of small picture networks and refuses any other by name. Feature maps change
from NHWC to NCHW once, at the input; a tensor that leaves the picture layout (Reshape) is brought back to
NHWC first, so outputs keep the order of the original. Half-precision weights stay half-precision in the file
and are cast where they are used. The batch axis is dynamic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 10
BATCH = "batch"


class TFLiteConversionError(ValueError):
    """The graph uses something this converter does not know; the message names the operator or option."""


@dataclass
class _Value:
    """One TFLite tensor on its way to ONNX: a constant (`array`), or the ONNX tensor `name`."""

    shape: tuple[int, ...]
    name: str = ""
    array: np.ndarray | None = None
    channels_first: bool = False


@dataclass
class _Builder:
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def unique(self, stem: str) -> str:
        self.counts[stem] = self.counts.get(stem, -1) + 1
        return f"{stem}_{self.counts[stem]}"

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = self.unique(op.lower())
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, array: np.ndarray, stem: str) -> str:
        """An initializer, as float32 where it is used even if it is stored in half precision."""
        name = self.unique(stem)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return self.node("Cast", [name], to=TensorProto.FLOAT) if array.dtype == np.float16 else name


def convert(
    model: bytes | Path,
    *,
    name: str,
    scale: float,
    offset: float,
    outputs: Mapping[str, tuple[int, tuple[int, ...]]],
    input_name: str = "image",
) -> onnx.ModelProto:
    """Convert a TFLite model whose single input is a float picture [1, H, W, 3].

    Parameters
    ----------
    scale, offset:
        The network's input is ``scale * pixel + offset`` for uint8 pixels; both go into the graph.
    outputs:
        ONNX output name -> (index among the TFLite outputs, shape without the batch axis).

    Returns
    -------
    A checked model of opset 18: uint8 ``[batch, H, W, 3]`` RGB in, float32 ``[batch, *shape]`` out.

    Raises
    ------
    TFLiteConversionError
        An operator, activation or option outside what the converter knows.
    """
    import tflite

    data = model.read_bytes() if isinstance(model, Path) else model
    parsed = tflite.Model.GetRootAs(data, 0)
    graph = parsed.Subgraphs(0)
    if graph.InputsLength() != 1:
        raise TFLiteConversionError(f"The graph has {graph.InputsLength()} inputs, one picture is expected.")
    builder = _Builder()
    values = {i: _constant_of(parsed, graph.Tensors(i)) for i in range(graph.TensorsLength())}

    source = values[graph.Inputs(0)]
    height, width = source.shape[1:3]
    picture = builder.node("Cast", [input_name], to=TensorProto.FLOAT)
    picture = builder.node("Mul", [picture, builder.constant(np.array(scale, np.float32), "input_scale")])
    if offset:
        picture = builder.node(
            "Add", [picture, builder.constant(np.array(offset, np.float32), "input_offset")]
        )
    source.name = builder.node("Transpose", [picture], perm=[0, 3, 1, 2])
    source.channels_first = True

    for position in range(graph.OperatorsLength()):
        operator = graph.Operators(position)
        opcode = parsed.OperatorCodes(operator.OpcodeIndex())
        op = tflite.opcode2name(max(opcode.BuiltinCode(), opcode.DeprecatedBuiltinCode()))
        inputs = [values[i] for i in operator.InputsAsNumpy() if i >= 0]
        if op not in _OPERATORS:
            raise TFLiteConversionError(
                f"The TFLite operator {op} is not known. Known: {', '.join(_OPERATORS)}."
            )
        _OPERATORS[op](builder, operator, inputs, values[operator.Outputs(0)])

    infos = []
    for output, (index, shape) in outputs.items():
        value = values[graph.Outputs(index)]
        if int(np.prod(value.shape)) != int(np.prod(shape)):
            raise TFLiteConversionError(f"Output {index} has shape {value.shape}, not one of {shape}.")
        target = builder.constant(np.array([0, *shape], np.int64), "output_shape")
        builder.nodes.append(
            helper.make_node("Reshape", [_channels_last(builder, value), target], [output], name=output)
        )
        infos.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [BATCH, *shape]))
    image = helper.make_tensor_value_info(input_name, TensorProto.UINT8, [BATCH, height, width, 3])
    onnx_graph = helper.make_graph(builder.nodes, name, [image], infos, builder.initializers)
    result = helper.make_model(
        onnx_graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="agesdk",
    )
    onnx.checker.check_model(result, full_check=True)
    return result


def _constant_of(model: Any, tensor: Any) -> _Value:
    """The tensor as a value; `array` is set when the file carries its data."""
    import tflite

    value = _Value(tuple(int(n) for n in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ())
    buffer = model.Buffers(tensor.Buffer())
    if buffer.DataLength() == 0:
        return value
    dtypes = {
        tflite.TensorType.FLOAT32: np.float32,
        tflite.TensorType.FLOAT16: np.float16,
        tflite.TensorType.INT32: np.int32,
    }
    if tensor.Type() not in dtypes:
        raise TFLiteConversionError(
            f"The constant {tensor.Name()!r} has the unsupported type {tensor.Type()}."
        )
    flat = np.frombuffer(buffer.DataAsNumpy().tobytes(), dtypes[tensor.Type()])
    if tensor.Sparsity() is not None:
        raise TFLiteConversionError(f"The constant {tensor.Name()!r} is stored sparse.")
    value.array = flat.reshape(value.shape)
    return value


def _channels_last(builder: _Builder, value: _Value) -> str:
    return builder.node("Transpose", [value.name], perm=[0, 2, 3, 1]) if value.channels_first else value.name


def _weights(value: _Value) -> np.ndarray:
    if value.array is None:
        raise TFLiteConversionError("A weight is computed in the graph; constants are expected.")
    return value.array


def _finish(
    builder: _Builder, output: _Value, name: str, activation: int, channels_first: bool = True
) -> None:
    """Name the output after the operator's fused activation."""
    if activation == 1:
        name = builder.node("Relu", [name])
    elif activation == 3:
        low, high = (
            builder.constant(np.array(0, np.float32), "zero"),
            builder.constant(np.array(6, np.float32), "six"),
        )
        name = builder.node("Clip", [name, low, high])
    elif activation != 0:
        raise TFLiteConversionError(f"The fused activation {activation} is not known.")
    output.name, output.channels_first = name, channels_first


def _options(operator: Any, options: Any) -> Any:
    table = operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    return options


def _padding(
    options: Any, size: tuple[int, ...], kernel: tuple[int, int], dilation: tuple[int, int]
) -> list[int]:
    """ONNX pads [top, left, bottom, right] of TFLite's SAME (0) or VALID (1) padding."""
    if options.Padding() == 1:
        return [0, 0, 0, 0]
    before, after = [], []
    for n, k, d, stride in zip(size, kernel, dilation, (options.StrideH(), options.StrideW()), strict=True):
        total = max((-(-n // stride) - 1) * stride + (k - 1) * d + 1 - n, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return before + after


def _convolution(
    builder: _Builder, operator: Any, inputs: list[_Value], output: _Value, depthwise: bool
) -> None:
    import tflite

    options = _options(operator, tflite.DepthwiseConv2DOptions() if depthwise else tflite.Conv2DOptions())
    weight = _weights(inputs[1])
    kernel = (weight.shape[1], weight.shape[2])
    dilation = (options.DilationHFactor(), options.DilationWFactor())
    # TFLite stores [out, h, w, in], and [1, h, w, out] when depthwise; ONNX wants [out, in / group, h, w].
    weight = weight.transpose(3, 0, 1, 2) if depthwise else weight.transpose(0, 3, 1, 2)
    names = [inputs[0].name, builder.constant(weight, "weight")]
    if len(inputs) > 2:
        names.append(builder.constant(_weights(inputs[2]), "bias"))
    name = builder.node(
        "Conv",
        names,
        kernel_shape=list(kernel),
        strides=[options.StrideH(), options.StrideW()],
        dilations=list(dilation),
        group=inputs[0].shape[3] if depthwise else 1,
        pads=_padding(options, inputs[0].shape[1:3], kernel, dilation),
    )
    _finish(builder, output, name, options.FusedActivationFunction())


def _conv_2d(builder: _Builder, operator: Any, inputs: list[_Value], output: _Value) -> None:
    _convolution(builder, operator, inputs, output, depthwise=False)


def _depthwise_conv_2d(builder: _Builder, operator: Any, inputs: list[_Value], output: _Value) -> None:
    _convolution(builder, operator, inputs, output, depthwise=True)


def _max_pool_2d(builder: _Builder, operator: Any, inputs: list[_Value], output: _Value) -> None:
    import tflite

    options = _options(operator, tflite.Pool2DOptions())
    kernel = (options.FilterHeight(), options.FilterWidth())
    name = builder.node(
        "MaxPool",
        [inputs[0].name],
        kernel_shape=list(kernel),
        strides=[options.StrideH(), options.StrideW()],
        pads=_padding(options, inputs[0].shape[1:3], kernel, (1, 1)),
    )
    _finish(builder, output, name, options.FusedActivationFunction())


def _pad(builder: _Builder, operator: Any, inputs: list[_Value], output: _Value) -> None:
    pads = _weights(inputs[1])[[0, 3, 1, 2]].T.ravel().astype(np.int64)
    name = builder.node("Pad", [inputs[0].name, builder.constant(pads, "pads")], mode="constant")
    _finish(builder, output, name, 0)


def _add(builder: _Builder, operator: Any, inputs: list[_Value], output: _Value) -> None:
    import tflite

    if inputs[0].shape != inputs[1].shape:
        raise TFLiteConversionError(
            f"ADD of unlike shapes {inputs[0].shape} and {inputs[1].shape} is not known."
        )
    name = builder.node("Add", [value.name for value in inputs])
    activation = _options(operator, tflite.AddOptions()).FusedActivationFunction()
    _finish(builder, output, name, activation, inputs[0].channels_first)


def _relu(builder: _Builder, operator: Any, inputs: list[_Value], output: _Value) -> None:
    _finish(builder, output, inputs[0].name, 1, inputs[0].channels_first)


def _prelu(builder: _Builder, operator: Any, inputs: list[_Value], output: _Value) -> None:
    slope = builder.constant(_weights(inputs[1]).transpose(2, 0, 1), "slope")
    _finish(builder, output, builder.node("PRelu", [inputs[0].name, slope]), 0)


def _reshape(builder: _Builder, operator: Any, inputs: list[_Value], output: _Value) -> None:
    shape = builder.constant(np.array([0, *output.shape[1:]], np.int64), "shape")
    name = builder.node("Reshape", [_channels_last(builder, inputs[0]), shape])
    _finish(builder, output, name, 0, channels_first=False)


def _concatenation(builder: _Builder, operator: Any, inputs: list[_Value], output: _Value) -> None:
    import tflite

    options = _options(operator, tflite.ConcatenationOptions())
    axis = options.Axis() % len(output.shape)
    channels_first = inputs[0].channels_first
    if any(value.channels_first != channels_first for value in inputs):
        raise TFLiteConversionError("CONCATENATION of tensors in unlike layouts is not known.")
    name = builder.node(
        "Concat", [v.name for v in inputs], axis=(0, 2, 3, 1)[axis] if channels_first else axis
    )
    _finish(builder, output, name, options.FusedActivationFunction(), channels_first)


def _copy_constant(builder: _Builder, operator: Any, inputs: list[_Value], output: _Value) -> None:
    output.array = _weights(inputs[0])


_OPERATORS: dict[str, Callable[[_Builder, Any, list[_Value], _Value], None]] = {
    "ADD": _add,
    "CONCATENATION": _concatenation,
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "DEQUANTIZE": _copy_constant,
    "MAX_POOL_2D": _max_pool_2d,
    "PAD": _pad,
    "PRELU": _prelu,
    "RELU": _relu,
    "RESHAPE": _reshape,
}
