"""What half precision really does, seen on a CPU.

ONNX Runtime's CPU kernels compute chains of float16 operators in float32 and round at their ends, so there a
float16 graph looks better than on a GPU, and does not overflow. `emulate` makes a float32 graph that rounds
every float16 value where a GPU does: to 11 bits, and to infinity beyond 65504.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


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
