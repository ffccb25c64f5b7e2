"""Compiling one graph with TensorRT or TensorRT-RTX, in this process.

The graph is checked against the manifest before TensorRT spends minutes on it. Graphs carry their precision:
networks are strongly typed, and no precision flag of the builder is used.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agesdk.backends.base import check_tensors
from agesdk.backends.trt_library import (
    NUMPY_OF_TENSORRT,
    Library,
    LogKeeper,
    failure,
    import_library,
    sizes_of,
)
from agesdk.backends.trt_plan import profile_shapes
from agesdk.engine_key import Profile, RuntimeName
from agesdk.errors import OutputError
from agesdk.manifest import Component

from .memory import peak
from .progress import PhaseTracker, Report, monitor

if TYPE_CHECKING:
    import tensorrt as trt

DEFAULT_OPTIMIZATION_LEVEL = 3


@dataclass(frozen=True)
class CompileJob:
    """What to compile, for what, and where to.

    ``compute_capabilities`` is empty for the GPU at hand. ``title`` is for messages.
    """

    title: str
    graph: Path
    component: Component
    profiles: tuple[Profile, ...]
    runtime: RuntimeName
    compute_capabilities: tuple[str, ...]
    optimization_level: int
    output: Path


@dataclass(frozen=True)
class Compiled:
    """What a compilation took; ``layers`` counts the network's layers by type, before fusion."""

    layers: dict[str, int]
    seconds: float
    processor_seconds: float
    peak_bytes: int | None


def compile_component(job: CompileJob, report: Report) -> Compiled:
    """Compile and write the engine to ``job.output``.

    Raises
    ------
    BackendError
        TensorRT is missing, refuses the graph, or fails; with the node and advice.
    OutputError
        The engine can not be written.
    """
    started = time.monotonic(), time.process_time()
    library = import_library(job.runtime)
    log = LogKeeper(library)
    builder: trt.Builder = library.api.Builder(log.sink)
    network = _network(builder, library)
    parser = _parse(network, library, log, job)
    _check_network(network, job)
    config = _configure(builder, network, library, log, job)
    # The configuration does not keep it alive.
    progress_monitor = monitor(library.api.IProgressMonitor, PhaseTracker(), report)
    config.progress_monitor = progress_monitor
    layers = Counter(network.get_layer(index).type.name for index in range(network.num_layers))
    log.clear()
    content: trt.IHostMemory | None = builder.build_serialized_network(network, config)
    if content is None:
        raise failure(f"Compiling {job.title} failed", log.errors)
    del parser  # the network's weights lie in it until here
    try:
        with job.output.open("xb") as file:
            file.write(memoryview(content))
    except OSError as error:
        raise OutputError(
            f"The engine of {job.title} can not be written", error.strerror or str(error)
        ) from None
    return Compiled(
        dict(sorted(layers.items())), time.monotonic() - started[0], time.process_time() - started[1], peak()
    )


def _network(builder: trt.Builder, library: Library) -> trt.INetworkDefinition:
    flag = getattr(library.api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return builder.create_network(0 if flag is None else 1 << int(flag))


def _parse(
    network: trt.INetworkDefinition, library: Library, log: LogKeeper, job: CompileJob
) -> trt.OnnxParser:
    parser: trt.OnnxParser = library.api.OnnxParser(network, log.sink)
    if not parser.parse_from_file(str(job.graph)):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        messages = [error.desc() for error in found] or log.errors
        node = next((error.node_name() for error in found if error.node_name()), "")
        raise failure(f"TensorRT refuses the graph of {job.title}", messages, node)
    return parser


def _check_network(network: trt.INetworkDefinition, job: CompileJob) -> None:
    """The network's tensors must be the manifest's before anything is built of it."""
    for kind, specs, count, get in (
        ("inputs", job.component.inputs, network.num_inputs, network.get_input),
        ("outputs", job.component.outputs, network.num_outputs, network.get_output),
    ):
        tensors = [get(index) for index in range(count)]
        found = {
            tensor.name: (NUMPY_OF_TENSORRT.get(tensor.dtype.name, tensor.dtype.name), sizes_of(tensor.shape))
            for tensor in tensors
        }
        check_tensors(f"the network of {job.title}", kind, specs, found)


def _configure(
    builder: trt.Builder, network: trt.INetworkDefinition, library: Library, log: LogKeeper, job: CompileJob
) -> trt.IBuilderConfig:
    config = builder.create_builder_config()
    config.builder_optimization_level = job.optimization_level
    for shapes in job.profiles:
        profile = builder.create_optimization_profile()
        for spec in job.component.inputs:
            low, best, high = (library.api.Dims(shape) for shape in profile_shapes(spec, shapes))
            profile.set_shape(spec.name, low, best, high)
        if config.add_optimization_profile(profile) < 0:
            raise failure(f"TensorRT refuses the profile of {job.title}", log.errors)
    if library.name == "tensorrt-rtx":
        capability = library.api.ComputeCapability
        names = [f"SM{name.replace('.', '')}" for name in job.compute_capabilities] or ["CURRENT"]
        # TensorRT-RTX only: the type stubs are TensorRT's.
        config.num_compute_capabilities = len(names)  # type: ignore[attr-defined, unused-ignore]
        for index, name in enumerate(names):
            config.set_compute_capability(getattr(capability, name), index)  # type: ignore[attr-defined, unused-ignore]
    return config
