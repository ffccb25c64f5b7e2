"""What half precision really does, seen on a CPU.

ONNX Runtime's CPU kernels compute chains of float16 operators in float32 and round at their ends, so there a
float16 graph looks better than on a GPU, and does not overflow. `emulate` makes a float32 graph that rounds
every float16 value where a GPU does: to 11 bits, and to infinity beyond 65504.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass


def run(path: Path, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a half-precision graph as a GPU rounds them."""
    model = ir.load(path)
    ShapeInferencePass()(model)
    emulate(model)
    return run_model(model, feeds)


def run_model(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a model that is in no file."""
    from . import tolerances

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="model.onnx.data")
        return tolerances.run(path, feeds)


def emulate(model: ir.Model) -> None:
    """Turn a graph made by `export.precision.to_half`, with the dtypes of its values, into float32, in
    place."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        if value.dtype == ir.DataType.FLOAT16 and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.dtype = ir.DataType.FLOAT
    for node in list(graph):
        for name, attribute in list(node.attributes.items()):
            if (
                attribute.type == ir.AttributeType.TENSOR
                and attribute.as_tensor().dtype == ir.DataType.FLOAT16
            ):
                array = attribute.as_tensor().numpy().astype(np.float32)
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT16:
                _round(graph, node, output)


def _round(graph: ir.Graph, node: ir.Node, output: ir.Value) -> None:
    output.dtype = ir.DataType.FLOAT
    users = [(use.node, use.idx) for use in output.uses()]
    down = ir.Node("", "Cast", [output], [ir.AttrInt64("to", int(ir.DataType.FLOAT16))], num_outputs=1)
    up = ir.Node("", "Cast", down.outputs, [ir.AttrInt64("to", int(ir.DataType.FLOAT))], num_outputs=1)
    down.outputs[0].name, up.outputs[0].name = f"{output.name}_down", f"{output.name}_up"
    up.outputs[0].dtype = ir.DataType.FLOAT
    graph.insert_after(node, [down, up])
    for user, index in users:
        user.replace_input_with(index, up.outputs[0])


def split_norms(model: ir.Model) -> None:
    """Write every InstanceNormalization as the steps that a backend without a fused kernel takes, in place.

    Each step is then rounded by itself, and squares overflow for deviations above 256.
    """
    for node in list(model.graph):
        if node.op_type == "InstanceNormalization":
            _split(model.graph, node)


def _split(graph: ir.Graph, node: ir.Node) -> None:
    x, scale, bias = node.inputs
    assert x is not None and scale is not None and bias is not None
    prefix = node.outputs[0].name
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    nodes: list[ir.Node] = []

    def step(kind: str, *inputs: ir.Value) -> ir.Value:
        nodes.append(ir.Node("", kind, inputs, num_outputs=1, name=f"{prefix}_{len(nodes)}"))
        result = nodes[-1].outputs[0]
        result.name, result.dtype = f"{prefix}_{len(nodes)}", ir.DataType.FLOAT
        return result

    rank = len(x.shape) if x.shape is not None else 3
    spatial = _constant(graph, f"{prefix}_spatial", np.arange(2, rank))
    column = _constant(graph, f"{prefix}_column", np.array([-1] + [1] * (rank - 2)))
    least = _constant(graph, f"{prefix}_epsilon", np.array(epsilon, np.float32))
    deviation = step("Sub", x, step("ReduceMean", x, spatial))
    variance = step("ReduceMean", step("Mul", deviation, deviation), spatial)
    normal = step("Div", deviation, step("Sqrt", step("Add", variance, least)))
    scaled = step("Mul", normal, step("Reshape", scale, column))
    result = step("Add", scaled, step("Reshape", bias, column))
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, node.outputs, [result])


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    shape = ir.Shape(array.shape)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    graph.register_initializer(value)
    return value
