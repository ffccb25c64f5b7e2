"""The engine protocol and the ONNX Runtime backend on a graph of two operators."""

from __future__ import annotations

import numpy as np
import pytest

from agesdk.backends import load_engine, run_batched
from agesdk.bundle import Bundle, Component, FaceAnalysisSettings, Manifest, TensorSpec, write_manifest
from agesdk.errors import BackendError, BundleError

onnx = pytest.importorskip("onnx")

INPUTS = (
    TensorSpec("x", "float32", ("batch", 3)),
    TensorSpec("y", "float32", ("batch", "width")),
)
OUTPUTS = (TensorSpec("total", "float32", ("batch", 1)),)
PROFILE = {"batch": (1, 2, 4), "width": (1, 3, 8)}


def write_bundle(folder, inputs=INPUTS, outputs=OUTPUTS, graph_output="total"):
    """A bundle with one component: the sum of all of x and y by row."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Concat", ["x", "y"], ["xy"], axis=1),
        helper.make_node("ReduceSum", ["xy", "axes"], [graph_output], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info(spec.name, float32, spec.shape) for spec in INPUTS],
        [helper.make_tensor_value_info(graph_output, float32, ("batch", 1))],
        [onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")],
    )
    path = folder / "components" / "sum"
    path.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path / "model.onnx")
    component = Component("sum", "fp32", ("components/sum/model.onnx",), inputs, outputs, PROFILE)
    write_manifest(folder, Manifest("face-analysis", "sum", "1", {"sum": component}, FaceAnalysisSettings()))
    return Bundle.open(folder)


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle")


def feeds(batch=2, width=2):
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((batch, 3)).astype(np.float32),
        "y": rng.standard_normal((batch, width)).astype(np.float32),
    }


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_runs_and_brings_back(bundle, threads):
    engine = load_engine(bundle, "sum", threads=threads)
    given = feeds()
    total = engine.to_host(engine.run(given)["total"])
    np.testing.assert_allclose(total[:, 0], given["x"].sum(1) + given["y"].sum(1), rtol=1e-5)
    assert (engine.name, engine.inputs, engine.outputs) == ("sum", INPUTS, OUTPUTS)


def test_device_tensors_stay_until_they_are_brought_back(bundle):
    """The binding that GPU providers use, on the CPU's memory: outputs feed the next run as they are."""
    engine = load_engine(bundle, "sum")
    engine._memory = ("cpu", 0, -1)
    given = feeds(width=1)
    total = engine.run(given)["total"]
    assert not isinstance(total, np.ndarray)
    again = engine.run({"x": given["x"], "y": total})["total"]
    wanted = 2 * given["x"].sum(1) + given["y"].sum(1)
    np.testing.assert_allclose(engine.to_host(again)[:, 0], wanted, rtol=1e-5)
    with pytest.raises(BackendError, match=r'"batch".*1 in "x" and 2 in "y"'):
        engine.run({"x": given["x"][:1], "y": total})


@pytest.mark.parametrize("batch", [1, 4, 5, 9])
def test_rows_beyond_the_profile_are_run_in_parts(bundle, batch):
    given = feeds(batch)
    total = run_batched(load_engine(bundle, "sum"), given)["total"]
    np.testing.assert_allclose(total[:, 0], given["x"].sum(1) + given["y"].sum(1), rtol=1e-5)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"x": None}, '"x".*missing'),
        ({"z": np.zeros((2, 3), np.float32)}, '"z" is not an input.*"x", "y"'),
        ({"x": np.zeros((2, 3), np.float64)}, '"x".*float64.*float32 \\[batch, 3\\]'),
        ({"x": np.zeros((2, 4), np.float32)}, r'"x".*\[2, 4\].*\[batch, 3\]'),
        ({"x": np.zeros(3, np.float32)}, r'"x".*\[3\].*\[batch, 3\]'),
        ({"y": np.zeros((3, 2), np.float32)}, '"batch".*2 in "x" and 3 in "y"'),
        ({"y": np.zeros((2, 9), np.float32)}, '"width" is 9.*1 to 8'),
        ({"x": [[1.0, 2.0, 3.0]]}, "list"),
    ],
)
def test_wrong_feeds_are_told(bundle, change, text):
    given = {**feeds(), **change}
    given = {name: array for name, array in given.items() if array is not None}
    with pytest.raises(BackendError, match=text):
        load_engine(bundle, "sum").run(given)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"backend": "onnxruntim"}, 'unknown.*Did you mean "onnxruntime"'),
        ({"provider": "cude"}, 'unknown.*Did you mean "cuda"'),
        ({"provider": "tensorrt-rtx"}, "not available.*onnxruntime-ep-nv-tensorrt-rtx"),
        ({"threads": 0}, "0 threads"),
    ],
)
def test_what_can_not_run_is_told(bundle, options, text):
    with pytest.raises(BackendError, match=text):
        load_engine(bundle, "sum", **options)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_does_not_start_is_an_error_and_not_the_cpu(bundle, provider, monkeypatch):
    import onnxruntime

    names = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [*names.values(), "CPUExecutionProvider"]
    )
    with pytest.raises(BackendError, match="onnxruntime-gpu"):
        load_engine(bundle, "sum", provider=provider)


def test_unknown_component_is_told(bundle):
    with pytest.raises(BundleError, match="sum"):
        load_engine(bundle, "som")


def test_an_altered_graph_is_not_opened(bundle):
    path = bundle.component_path("sum")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="altered"):
        Bundle.open(bundle.path)


def test_a_graph_that_is_not_the_manifests_is_told(tmp_path):
    with pytest.raises(BackendError, match=r'outputs.*"sum".*manifest states "total"'):
        load_engine(write_bundle(tmp_path / "a", graph_output="sum"), "sum")
    wrong = (TensorSpec("x", "float32", ("batch", 4)), INPUTS[1])
    with pytest.raises(BackendError, match=r'"x".*\[batch, 3\].*\[batch, 4\]'):
        load_engine(write_bundle(tmp_path / "b", inputs=wrong), "sum")


def test_a_file_that_is_no_graph_is_told(bundle):
    bundle.component_path("sum").write_bytes(b"not a graph")
    with pytest.raises(BackendError, match="could not be opened"):
        load_engine(bundle, "sum")
