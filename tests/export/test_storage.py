"""Weights stored in half the bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from agesdk.backends import load_engine
from agesdk.bundle import Bundle
from export.checkpoint import EXPECTED, load_module
from export.ldla import Options, export_ldla
from export.storage import SMALLEST_ELEMENTS, expand_halves, round_to_half


@pytest.fixture(scope="module")
def half_bundle(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("half") / "bundle"
    export_ldla(Options(small_checkpoint, folder, half_storage=True, progress=False))
    return Bundle.open(folder)


def test_large_weights_are_stored_in_two_bytes_and_nothing_else_changes_type(half_bundle: Bundle) -> None:
    for name, component in half_bundle.manifest.components.items():
        graph = onnx.load(half_bundle.component_path(name)).graph
        types = {w.name: (w.data_type, int(np.prod(w.dims))) for w in graph.initializer}
        large = [dtype for dtype, size in types.values() if size >= SMALLEST_ELEMENTS]
        assert large and set(large) == {onnx.TensorProto.FLOAT16}, name
        assert component.precision == "fp32"


def test_a_stored_graph_computes_what_torch_does_with_the_rounded_weights(
    half_bundle: Bundle, small_checkpoint: Path
) -> None:
    vae = load_module(small_checkpoint / "vae", EXPECTED["vae"])
    before = {name: p.clone() for name, p in vae.named_parameters()}
    round_to_half(vae)
    changed = [n for n, p in vae.named_parameters() if not torch.equal(before[n], p)]
    assert changed, "no weight was rounded: the comparison would prove nothing"
    image = torch.randint(0, 256, (2, 128, 128, 3), dtype=torch.uint8)
    with torch.no_grad():
        wanted, _ = vae.encode(image.permute(0, 3, 1, 2).float() / 127.5 - 1)
    found = load_engine(half_bundle, "vae_encoder", threads=1).run({"image": image.numpy()})
    np.testing.assert_allclose(found["mean"], wanted.numpy(), atol=1e-4 * float(wanted.abs().max()))


def test_tools_that_want_initializers_find_them_again(half_bundle: Bundle) -> None:
    path = half_bundle.component_path("denoise")
    model = onnx.load(path)
    casts = sum(node.op_type == "Cast" for node in model.graph.node)
    expand_halves(model)
    weights = {w.name: w for w in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions and all(node.input[1] in weights for node in convolutions)
    assert sum(node.op_type == "Cast" for node in model.graph.node) < casts
    engine = load_engine(half_bundle, "denoise", threads=1)
    rng = np.random.default_rng(0)
    feeds = {
        spec.name: rng.standard_normal([2 if size == "batch" else size for size in spec.shape])
        .astype(np.float32)
        .astype(spec.dtype)
        for spec in engine.inputs
    }
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        session.run(None, feeds)[0], engine.run(feeds)["next_sample"], atol=1e-5, rtol=1e-5
    )
