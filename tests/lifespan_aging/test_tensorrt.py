"""Every component of tiny lifespan bundles compiles with TensorRT-RTX, ahead of time and without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agesdk.bundle import Bundle
from agesdk.errors import BackendError
from tests.lifespan_reference import Variant

onnx = pytest.importorskip("onnx")
pytest.importorskip("tensorrt_rtx")

from tests.tensorrt_checks import (  # noqa: E402
    CAPABILITIES,
    assert_tensors_are_the_manifests,
    compile_one,
    half_bundle,
)

EXACT_RESIZE = {"face_encoder", "clip_image_encoder"}
"""Their resize of the picture is a float32 matrix product in every precision: its sums overflow float16.
Turing has none."""


@pytest.fixture(scope="module")
def graphs(variant_a: Variant, variant_b: Variant) -> list[tuple[Bundle, str]]:
    """Every component of both checkpoints and both ways of LoRA; of graphs alike but for their weights, the
    first."""
    found: dict[Any, tuple[Bundle, str]] = {}
    for bundle in (variant_a.switch, variant_a.fused, variant_b.switch, variant_b.fused):
        for name in bundle.manifest.components:
            found.setdefault((name, structure(bundle.component_path(name))), (bundle, name))
    return list(found.values())


def structure(path: Path) -> Any:
    """Operators, their attributes and the shapes of weights."""
    graph = onnx.load(path, load_external_data=False).graph
    nodes = [
        (node.op_type, [attribute.SerializeToString() for attribute in node.attribute]) for node in graph.node
    ]
    weights = [(weight.data_type, tuple(weight.dims)) for weight in graph.initializer]
    return repr((nodes, weights))


@pytest.mark.parametrize("precision", list(CAPABILITIES))
def test_every_component_compiles(graphs, precision, tmp_path: Path) -> None:
    halves: dict[Path, Bundle] = {}
    compiled = set()
    for index, (bundle, name) in enumerate(graphs):
        if precision == "fp16":
            if bundle.path not in halves:
                halves[bundle.path] = half_bundle(bundle, tmp_path / f"half{index}")
            bundle = halves[bundle.path]
        assert_tensors_are_the_manifests(bundle.component_path(name), bundle.component(name))
        capabilities = CAPABILITIES[precision]
        if name in EXACT_RESIZE:
            if "7.5" in capabilities:
                with pytest.raises(BackendError, match="Turing"):
                    compile_one(bundle, name, tmp_path / f"{index}.turing", ("7.5",))
            capabilities = CAPABILITIES["fp32"]
        compile_one(bundle, name, tmp_path / f"{index}.engine", capabilities)
        compiled.add(name)
    assert compiled >= {"vae_encoder", "vae_decoder", "denoise", "denoise_identity", "face_encoder"}
