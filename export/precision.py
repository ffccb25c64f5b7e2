"""Half precision written into the graph.

`to_half` turns the network inside a float32 graph into float16, keeps the graph's inputs and outputs as they
are and leaves islands in float32: the wrapper around the network (normalisation of pictures, scaling, the
sampler step, rounding), sinusoidal embeddings with everything that leads to them, and operators whose sums or
squares overflow or lose their small terms in float16. Types are assigned value by value, so the result is
strongly typed: no operator mixes the two, as TensorRT demands.
"""

from __future__ import annotations

import ast

import numpy as np
import onnx
import onnx_ir as ir

ISLANDS = frozenset(
    {
        "Exp",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "Log",
        "LpNormalization",
        "Pow",
        "Range",
        "ReduceL2",
        "ReduceMean",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "RMSNormalization",
    }
)
"""Operators that compute in float32 wherever they stand. Softmax is none: it subtracts the largest value
first, its kernels sum in float32, and casts around it would keep TensorRT from fusing attention."""

CANDIDATES = ISLANDS | {"Softmax", "Sigmoid", "Tanh", "Erf", "Gelu", "Sqrt", "Div"}
"""Operators that `export.islands` tries as islands."""

EXACT_MARK = "agesdk.exact"
"""Key in the metadata of nodes that stay float32: the wrapper around the network."""

_SINUSOIDS = frozenset({"Sin", "Cos"})
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_HALF_MAX = 65504.0


def to_half(model: ir.Model, islands: frozenset[str] = ISLANDS) -> None:
    """Convert in place.

    Parameters
    ----------
    model:
        Float32, with the dtypes of all its values, without subgraphs. The wrapper around the network is told
        by `mark_exact`; without any mark it is what comes before the first weights and after the last.
    islands:
        Operators that stay float32 inside the network.
    """
    graph = model.graph
    nodes = list(graph)
    marked = {node for node in nodes if EXACT_MARK in node.metadata_props}
    exact = (marked or _before_or_after_weights(nodes)) | _leading_to_sinusoids(nodes)
    half: dict[ir.Value, ir.Value] = {}
    single: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        wanted = ir.DataType.FLOAT if node in exact or node.op_type in islands else ir.DataType.FLOAT16
        if node.op_type == "Cast":
            target = node.attributes["to"]
            if ir.DataType(target.as_int()) == ir.DataType.FLOAT and wanted == ir.DataType.FLOAT16:
                node.attributes["to"] = ir.AttrInt64("to", int(wanted))
                _set_dtype(node.outputs[0], wanted)
            continue
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
                continue
            needed = ir.DataType.FLOAT if _is_always_float32(node, index) else wanted
            if value.dtype != needed:
                cache = half if needed == ir.DataType.FLOAT16 else single
                if value not in cache:
                    cache[value] = _converted(graph, value, needed)
                node.replace_input_with(index, cache[value])
        if wanted == ir.DataType.FLOAT16:
            _halve_attributes(node)
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT:
                    _set_dtype(output, wanted)
    for index, output in enumerate(list(graph.outputs)):
        if output.dtype == ir.DataType.FLOAT16:
            name = output.name
            output.name = f"{name}_half"
            restored = _converted(graph, output, ir.DataType.FLOAT)
            restored.name = name
            graph.outputs[index] = restored
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def mixed_types(model: ir.Model) -> list[str]:
    """Nodes whose inputs break a type constraint of their operator, described; empty for a strongly typed
    graph.

    ONNX's own checks let some of these pass, TensorRT refuses them.
    """
    version = model.opset_imports[""]
    found = []
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            continue
        schema = onnx.defs.get_schema(node.op_type, version, "")
        bound: dict[str, ir.DataType] = {}
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype is None:
                continue
            formal = schema.inputs[min(index, len(schema.inputs) - 1)]
            if formal.is_homogeneous and bound.setdefault(formal.type_str, value.dtype) != value.dtype:
                found.append(
                    f"{node.op_type} {node.name}: {bound[formal.type_str].name} and {value.dtype.name}"
                )
                break
    return found


def mark_exact(model: ir.Model, network: str) -> None:
    """Mark the nodes that torch recorded as the wrapper's own, not the network's.

    Parameters
    ----------
    model:
        As exported by torch, with its node metadata.
    network:
        Name of the wrapper's attribute that holds the network.
    """
    for node in model.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        if scopes is None:
            continue
        path = ast.literal_eval(scopes)
        if len(path) < 2 or not any(scope == network or scope.startswith(f"{network}.") for scope in path):
            node.metadata_props[EXACT_MARK] = "1"


def _before_or_after_weights(nodes: list[ir.Node]) -> set[ir.Node]:
    """Nodes, in topological order, that no weighted operator comes before, or none after."""
    after: set[ir.Node] = set()
    for node in nodes:
        producers = {value.producer() for value in node.inputs if value is not None}
        if node.op_type in _WEIGHTED or producers & after:
            after.add(node)
    before: set[ir.Node] = set()
    for node in reversed(nodes):
        users = {use.node for output in node.outputs for use in output.uses()}
        if node.op_type in _WEIGHTED or users & before:
            before.add(node)
    return {node for node in nodes if node not in after or node not in before}


def _leading_to_sinusoids(nodes: list[ir.Node]) -> set[ir.Node]:
    pending = [node for node in nodes if node.op_type in _SINUSOIDS]
    found = set(pending)
    while pending:
        for value in pending.pop().inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer not in found:
                found.add(producer)
                pending.append(producer)
    return found


def _is_always_float32(node: ir.Node, index: int) -> bool:
    """Whether the operator takes this input as float32 only (the scales of Resize)."""
    schema = onnx.defs.get_schema(node.op_type, 18, node.domain)
    formal = schema.inputs[min(index, len(schema.inputs) - 1)]
    return "tensor(float)" in formal.types and "tensor(float16)" not in formal.types


def _converted(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """The value in another precision: a converted constant, or a Cast placed right after the value's
    producer."""
    if value.const_value is not None and value.is_initializer():
        exact, kind = value.const_value, np.float16 if dtype == ir.DataType.FLOAT16 else np.float32

        def convert() -> ir.TensorProtocol:
            array = exact.numpy()
            return ir.tensor(array.clip(-_HALF_MAX, _HALF_MAX).astype(kind), dtype=dtype)

        # Converted when it is written: both precisions of all weights together may not fit into memory.
        name, shape = f"{value.name}_{dtype.name.lower()}", ir.Shape(exact.shape.numpy())
        tensor = ir.LazyTensor(convert, dtype, shape, name=name)
        made = ir.Value(name=name, type=ir.TensorType(dtype), shape=shape, const_value=tensor)
        graph.register_initializer(made)
        return made
    cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))], num_outputs=1)
    result = cast.outputs[0]
    result.name = f"{value.name}_{dtype.name.lower()}"
    result.type = ir.TensorType(dtype)
    result.shape = value.shape
    cast.name = f"cast_{result.name}"
    producer = value.producer()
    if producer is None:
        first = next(iter(graph), None)
        graph.insert_before(first, cast) if first is not None else graph.append(cast)
    else:
        graph.insert_after(producer, cast)
    return result


def _halve_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == ir.DataType.FLOAT:
            array = np.clip(attribute.as_tensor().numpy(), -_HALF_MAX, _HALF_MAX).astype(np.float16)
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))


def _set_dtype(value: ir.Value, dtype: ir.DataType) -> None:
    value.type = ir.TensorType(dtype)
