"""Compiling components with TensorRT-RTX as tests do it, and graphs in half precision to compile."""

from __future__ import annotations

from pathlib import Path

import tensorrt_rtx as trt

from agesdk.bundle import Bundle
from agesdk.manifest import Component
from engines.compile import Compiled, CompileJob, compile_component
from export.convert import Options, convert

LEVEL = 0
"""Optimization level of the builder: whether a graph is refused does not depend on it."""

CAPABILITIES = {"fp32": ("8.6", "8.9"), "fp16": ("7.5", "8.6", "8.9")}
"""What each precision is compiled for, all in one engine; Turing (7.5) has no float32 matrix products."""

_NUMPY = {
    trt.float32: "float32",
    trt.float16: "float16",
    trt.int64: "int64",
    trt.int32: "int32",
    trt.uint8: "uint8",
    trt.int8: "int8",
    trt.bool: "bool",
}


def compile_one(bundle: Bundle, name: str, output: Path, capabilities: tuple[str, ...]) -> Compiled:
    """Compile a component of a bundle ahead of time, at the manifest's profile."""
    component = bundle.component(name)
    job = CompileJob(
        title=name,
        graph=bundle.component_path(name),
        component=component,
        profiles=(component.profile,),
        runtime="tensorrt-rtx",
        compute_capabilities=capabilities,
        optimization_level=LEVEL,
        output=output,
    )
    return compile_component(job, lambda phase, fraction: None)


def assert_tensors_are_the_manifests(path: Path, component: Component) -> None:
    """Parse the graph with TensorRT-RTX alone and compare names, dtypes, shapes and the profile's limits."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path))
    found = [
        [
            (tensor.name, _NUMPY[tensor.dtype], tuple(tensor.shape))
            for tensor in (get(index) for index in range(count))
        ]
        for count, get in (
            (network.num_inputs, network.get_input),
            (network.num_outputs, network.get_output),
        )
    ]
    stated = [
        [
            (spec.name, spec.dtype, tuple(-1 if isinstance(axis, str) else axis for axis in spec.shape))
            for spec in specs
        ]
        for specs in (component.inputs, component.outputs)
    ]
    assert [sorted(tensors) for tensors in found] == [sorted(tensors) for tensors in stated]
    profile = builder.create_optimization_profile()
    for spec in component.inputs:
        shapes = [
            tuple(component.profile[axis][which] if isinstance(axis, str) else axis for axis in spec.shape)
            for which in range(3)
        ]
        profile.set_shape(spec.name, *shapes)
        assert [tuple(shape) for shape in profile.get_shape(spec.name)] == shapes
    assert builder.create_builder_config().add_optimization_profile(profile) == 0


def half_bundle(source: Bundle, folder: Path) -> Bundle:
    """A float32 bundle converted to half precision; inputs and outputs stay."""
    convert(Options(source.path, folder, "fp16", progress=False))
    return Bundle.open(folder)
