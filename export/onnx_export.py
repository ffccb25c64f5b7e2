"""From a torch graph module to ``model.onnx``.

`torch.onnx.export` with torch.export underneath, opset 18. Small graphs are one file; of large ones the
weights go to one ``model.onnx.data`` beside it. Weights are not copied on the way: until they are written
they are the module's own.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from .errors import ExportError
from .graphs import Graph
from .precision import EXACT_MARK, mark_exact, mixed_types, to_half
from .storage import store_halves

logger = logging.getLogger(__name__)

OPSET = 18
MODEL_NAME = "model.onnx"
DATA_NAME = "model.onnx.data"
MAX_SINGLE_FILE_BYTES = 128 * 2**20
"""Weights beyond this go to external data. Protobuf's own limit is 2 GiB, but a graph is parsed as a
whole."""

Precision = Literal["fp32", "fp16"]
"""What a graph is written in as it leaves torch; int8 is made of the fp32 graph (`export.convert`)."""


def export_graph(
    graph: Graph, folder: Path, precision: Precision, half_storage: bool = False
) -> tuple[str, ...]:
    """Write ``model.onnx`` (and ``model.onnx.data``) to a folder.

    ``half_storage``: see `export.storage`.

    Returns
    -------
    tuple[str, ...]
        The names of the files, the graph first.

    Raises
    ------
    ExportError
        torch can not export the graph, or the exported graph mixes types.
    """
    name = type(graph).__name__
    model = _traced(graph)
    mark_exact(model, graph.network)
    if precision == "fp16":
        to_half(model)
    _name_axes(model, graph)
    return save_model(model, folder, name, precision, half_storage)


def save_model(
    model: ir.Model, folder: Path, name: str, precision: str, half_storage: bool = False
) -> tuple[str, ...]:
    """Write a strongly typed model as `export_graph` does, and return the names of the files.

    Raises
    ------
    ExportError
        The model mixes types.
    """
    folder.mkdir(parents=True, exist_ok=True)
    RemoveUnusedNodesPass()(model)
    mixed = mixed_types(model)
    if mixed:
        raise ExportError(f"The exported {name} mixes types in {len(mixed)} nodes", f"The first: {mixed[0]}")
    _strip(model)
    if half_storage:
        store_halves(model)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if size > MAX_SINGLE_FILE_BYTES:
        ir.save(model, folder / MODEL_NAME, external_data=DATA_NAME)
        files: tuple[str, ...] = (MODEL_NAME, DATA_NAME)
    else:
        ir.save(model, folder / MODEL_NAME)
        files = (MODEL_NAME,)
    logger.info("%s: %d nodes, %.1f MB of weights, %s", name, len(model.graph), size / 1e6, precision)
    return files


def _traced(graph: Graph) -> ir.Model:
    example = graph.draw(graph.example_sizes(), torch.Generator().manual_seed(0))
    axes = {symbol: graph.axis(symbol) for symbol in graph.profile}
    dynamic = {
        spec.name: {i: axes[size] for i, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in graph.inputs
    }
    with torch.no_grad(), _quiet():
        try:
            program = torch.onnx.export(
                graph,
                (),
                kwargs=example,
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in graph.inputs],
                output_names=[spec.name for spec in graph.outputs],
                dynamic_shapes=dynamic,
                verbose=False,
            )
        except Exception as error:  # torch.export and torch.onnx raise dozens of unrelated classes
            reason = str(error).strip().splitlines()
            raise ExportError(
                f"{type(graph).__name__} can not be exported to ONNX",
                reason[0] if reason else type(error).__name__,
            ) from error
    assert program is not None
    return program.model


def _name_axes(model: ir.Model, graph: Graph) -> None:
    """Give inputs and outputs the symbols of the specs; torch writes derived axes as formulas."""
    for specs, values in ((graph.inputs, model.graph.inputs), (graph.outputs, model.graph.outputs)):
        by_name = {value.name: value for value in values}
        if set(by_name) != {spec.name for spec in specs}:
            raise ExportError(
                f"The exported {type(graph).__name__} has the tensors {sorted(map(str, by_name))}",
                f"expected {sorted(spec.name for spec in specs)}",
            )
        for spec in specs:
            by_name[spec.name].shape = ir.Shape(spec.shape)


def _strip(model: ir.Model) -> None:
    """Remove what describes the exporting machine (stack traces with paths) and inferred shapes.

    Intermediate shapes are inferred again by every consumer; recorded ones make ONNX Runtime's quantiser fail
    where its inference differs.
    """
    kept = {*model.graph.inputs, *model.graph.outputs}
    model.producer_name = "agesdk"
    model.doc_string = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
    for node in model.graph.all_nodes():
        exact = EXACT_MARK in node.metadata_props
        node.metadata_props.clear()
        if exact:
            node.metadata_props[EXACT_MARK] = "1"
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            value.doc_string = None
            if value not in kept:
                value.shape = None
                value.type = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter warns about its own internals (missing torchvision, shared axis names); none of it is
    ours."""
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        noisy.setLevel(level)
