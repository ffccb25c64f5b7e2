"""Half the size on disk: weights stored in float16, computed with in float32.

A small bundle is shipped inside the wheel, where every megabyte counts, but a CPU computes fastest in
float32. The weights are rounded to the nearest float16 before the export, so torch and the graph have the
same ones, and each stored weight is followed by a Cast that runtimes fold away when they open the graph.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

SMALLEST_ELEMENTS = 256
"""Smaller weights stay float32: a Cast costs more bytes than it saves."""


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Round every weight that `store_halves` will store to the nearest float16, in place."""
    for parameter in module.parameters():
        if parameter.dtype == torch.float32 and parameter.numel() >= SMALLEST_ELEMENTS:
            parameter.copy_(parameter.half().float())


def store_halves(model: ir.Model) -> None:
    """Store the float32 initializers that float16 holds exactly as float16 with a Cast, in place."""
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if value.dtype != ir.DataType.FLOAT or value.const_value is None:
            continue
        array = value.const_value.numpy()
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if array.size < SMALLEST_ELEMENTS or not np.array_equal(half.astype(np.float32), array):
            continue
        stored = ir.Value(
            name=f"{name}_half",
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=ir.Shape(array.shape),
            const_value=ir.tensor(half, name=f"{name}_half"),
        )
        graph.register_initializer(stored)
        cast = ir.Node(
            "", "Cast", [stored], [ir.AttrInt64("to", int(ir.DataType.FLOAT))], name=f"cast_{name}"
        )
        cast.outputs[0].name = f"{name}_single"
        cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        graph.insert_before(graph[0], cast)
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[name]


def expand_halves(model: onnx.ModelProto) -> None:
    """The inverse of `store_halves`, in place: for tools that take only an initializer for a weight."""
    stored = {weight.name: weight for weight in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type == "Cast" and node.input[0] in stored:
            weight = stored[node.input[0]]
            array = onnx.numpy_helper.to_array(weight).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, node.output[0]))
            model.graph.initializer.remove(weight)
            model.graph.node.remove(node)
