"""Every component of the embedded bundles compiles with TensorRT-RTX, ahead of time and without a GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from agesdk.bundle import Bundle
from agesdk.errors import BackendError
from agesdk.manifest import TensorSpec

pytest.importorskip("tensorrt_rtx")

from engines.compile import CompileJob, compile_component
from tests.tensorrt_checks import (
    CAPABILITIES,
    LEVEL,
    assert_tensors_are_the_manifests,
    compile_one,
)

COMPONENTS = [
    (kind, precision, name)
    for kind in ("zone-aging", "face-analysis")
    for name in Bundle.open(kind=kind, verify=False).manifest.components
    for precision in CAPABILITIES
]


@pytest.mark.parametrize(("kind", "precision", "name"), COMPONENTS)
def test_every_embedded_component_compiles(bundles, tmp_path: Path, kind, precision, name) -> None:
    bundle = bundles[kind, precision]
    assert_tensors_are_the_manifests(bundle.component_path(name), bundle.component(name))
    output = tmp_path / "engine"
    compiled = compile_one(bundle, name, output, CAPABILITIES[precision])
    content = output.read_bytes()
    for spec in (*bundle.component(name).inputs, *bundle.component(name).outputs):
        assert spec.name.encode() in content
    weights = bundle.component_path(name).stat().st_size
    assert len(content) > 0.8 * weights
    assert sum(compiled.layers.values()) > 10


def job(bundle: Bundle, name: str, output: Path, **changes) -> CompileJob:
    component = bundle.component(name)
    made = CompileJob(
        name,
        bundle.component_path(name),
        component,
        (component.profile,),
        "tensorrt-rtx",
        ("8.9",),
        LEVEL,
        output,
    )
    return dataclasses.replace(made, **changes)


def compile_job(made: CompileJob):
    return compile_component(made, lambda phase, fraction: None)


def test_turing_refuses_float32_and_the_error_says_what_to_do(bundles, tmp_path) -> None:
    bundle = bundles["zone-aging", "fp32"]
    with pytest.raises(BackendError, match=r"at the node \w+.*Turing.*--precision fp16"):
        compile_job(job(bundle, "condition_encoder", tmp_path / "engine", compute_capabilities=("7.5",)))
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "zones"}, r'inputs .*"zone".*manifest states "zones"'),
        ({"dtype": "int32"}, r'"zone" .* is int64 .*manifest states int32'),
        ({"shape": ("batch", 3)}, r'"zone" .* is int64 \[-1\].*\[batch, 3\]'),
    ],
)
def test_a_manifest_that_is_not_the_graphs_is_told_before_compiling(bundles, tmp_path, change, told) -> None:
    bundle = bundles["zone-aging", "fp32"]
    component = bundle.component("condition_encoder")
    zone, score = component.inputs
    wrong = dataclasses.replace(component, inputs=(dataclasses.replace(zone, **change), score))
    with pytest.raises(BackendError, match=told):
        compile_job(job(bundle, "condition_encoder", tmp_path / "engine", component=wrong))


def test_a_graph_that_tensorrt_refuses_names_the_node(tmp_path) -> None:
    """A transpose of a uint8 picture: ONNX Runtime runs it, TensorRT knows uint8 at the edges only."""
    onnx = pytest.importorskip("onnx")
    helper, proto = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["image"], ["turned"], name="turn", perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["turned"], ["levels"], name="cast", to=proto.FLOAT),
        ],
        "g",
        [helper.make_tensor_value_info("image", proto.UINT8, ("batch", 8, 8, 3))],
        [helper.make_tensor_value_info("levels", proto.FLOAT, ("batch", 3, 8, 8))],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    bundle = Bundle.open(kind="face-analysis", verify=False)
    component = dataclasses.replace(
        bundle.component("face_detector"),
        inputs=(TensorSpec("image", "uint8", ("batch", 8, 8, 3)),),
        outputs=(TensorSpec("levels", "float32", ("batch", 3, 8, 8)),),
    )
    made = job(bundle, "face_detector", tmp_path / "engine", graph=path, component=component)
    with pytest.raises(BackendError, match=r"refuses the graph .* at the node turn: the graph mixes types"):
        compile_job(made)


def test_several_profiles_go_into_one_engine_and_progress_is_reported(bundles, tmp_path) -> None:
    bundle = bundles["zone-aging", "fp32"]
    profiles = ({"batch": (1, 1, 1)}, {"batch": (1, 8, 24)})
    seen: list[tuple[str, float]] = []
    made = job(bundle, "condition_encoder", tmp_path / "engine", profiles=profiles)
    compile_component(made, lambda phase, fraction: seen.append((phase, fraction)))
    assert (tmp_path / "engine").stat().st_size > 0
    assert seen
    assert all(0.0 <= fraction <= 1.0 for _, fraction in seen)
