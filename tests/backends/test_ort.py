"""The engine protocol and the ONNX Runtime backend on a graph of two operators."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from agesdk.backends import load_engine, run_batched
from agesdk.backends.base import mix_guidance
from agesdk.backends.ort_session import PROVIDERS, fallback_operators, open_session, provider_options
from agesdk.bundle import Bundle, Component, FaceAnalysisSettings, Manifest, TensorSpec, write_manifest
from agesdk.errors import BackendError, BundleError, UsageError

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


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AGESDK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
    "options, error, text",
    [
        ({"backend": "onnxruntim"}, UsageError, 'unknown.*Did you mean "onnxruntime"'),
        ({"provider": "cude"}, UsageError, 'unknown.*Did you mean "cuda"'),
        ({"provider": "tensorrt-rtx"}, BackendError, "not available.*onnxruntime-ep-nv-tensorrt-rtx"),
        ({"threads": 0}, UsageError, "0 threads"),
    ],
)
def test_what_can_not_run_is_told(bundle, options, error, text):
    with pytest.raises(error, match=text):
        load_engine(bundle, "sum", **options)


@pytest.mark.parametrize("provider", list(PROVIDERS))
def test_the_provider_asked_for_is_the_one_used_or_an_error(bundle, provider):
    """On any machine and with any ONNX Runtime: never the CPU in the place of another."""
    try:
        engine = load_engine(bundle, "sum", provider=provider)
    except BackendError as error:
        assert provider != "cpu" and error.why and error.fix
        return
    assert engine._session.get_providers()[0] == PROVIDERS[provider].ort_name


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


def test_feeds_are_copied_to_the_device_once_and_used_from_there(bundle):
    engine = load_engine(bundle, "sum")
    engine._memory = ("cpu", 0, -1)
    given = {name: engine.to_device(array) for name, array in feeds().items()}
    assert not any(isinstance(tensor, np.ndarray) for tensor in given.values())
    first, second = (engine.to_host(engine.run(given)["total"]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, load_engine(bundle, "sum").run(feeds())["total"])


def test_guidance_on_the_device_is_that_of_the_host():
    engine = load_engine(Bundle.open(None, "zone-aging"), "denoise", threads=1)
    halves = np.random.default_rng(1).standard_normal((6, 16, 16, 16)).astype(np.float32)
    on_host = engine.guide(halves, 1.9)
    engine._memory = ("cpu", 0, -1)
    on_device = engine.guide(engine.to_device(halves), 1.9)
    assert not isinstance(on_device, np.ndarray)
    np.testing.assert_array_equal(engine.to_host(on_device), on_host)
    np.testing.assert_array_equal(on_host, mix_guidance(halves, 1.9))


def test_the_guidance_graph_in_the_package_is_the_one_that_is_made():
    from export.guidance import PATH, guidance_graph

    assert onnx.load(PATH) == guidance_graph()


def test_a_guided_run_is_the_same_with_tensors_on_the_device_as_on_the_host():
    from agesdk.diffusion.denoiser import denoise
    from agesdk.diffusion.schedule import make_schedule

    bundle = Bundle.open(None, "zone-aging")
    engine = load_engine(bundle, "denoise", threads=1)
    golden = bundle.golden("denoise")
    rows = golden["input.sample"][:1]
    schedule = make_schedule(bundle.settings.scheduler, 20, 0.2)
    noise = np.random.default_rng(0).standard_normal((1 + schedule.noisy_steps, *rows.shape), np.float32)
    condition = golden["input.encoder_hidden_states"][:1]
    extra = {name: golden[f"input.{name}"][:1] for name in ("masked_latents", "mask")}
    arguments = schedule, rows, noise, condition, -condition, 1.9, extra
    on_host = denoise(engine, *arguments)
    engine._memory = ("cpu", 0, -1)
    on_device = denoise(engine, *arguments)
    assert on_device.shape == rows.shape and not np.array_equal(on_host, rows)
    np.testing.assert_allclose(on_device, on_host, atol=1e-6)


def test_tensorrt_providers_get_the_bundles_profile_and_a_folder(bundle, cache):
    component = bundle.component("sum")
    options = provider_options(PROVIDERS["tensorrt"], component)
    assert options["trt_profile_min_shapes"] == "x:1x3,y:1x1"
    assert options["trt_profile_opt_shapes"] == "x:2x3,y:2x3"
    assert options["trt_profile_max_shapes"] == "x:4x3,y:4x8"
    assert options["trt_engine_cache_path"] == str(cache / "onnxruntime/tensorrt")
    assert cache.stat().st_mode & 0o777 == 0o700
    rtx = provider_options(PROVIDERS["tensorrt-rtx"], component)
    assert rtx["nv_profile_max_shapes"] == "x:4x3,y:4x8"
    assert rtx["nv_runtime_cache_path"] == str(cache / "onnxruntime/tensorrt-rtx")
    assert provider_options(PROVIDERS["cpu"], component) == {}


def test_an_operator_left_to_the_cpu_is_seen_and_arithmetic_on_shapes_is_not():
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    path = str(Bundle.open(None, "zone-aging").component_path("vae_decoder"))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("this ONNX Runtime records no assignment")
    assignment = session.get_provider_graph_assignment_info()
    assert fallback_operators(assignment, "CPUExecutionProvider") == []
    strays = fallback_operators(assignment, "CUDAExecutionProvider")
    assert "Conv" in strays and "Reshape" not in strays


def test_a_hidden_gpu_runtime_is_told_with_the_command_that_repairs_it(bundle, monkeypatch):
    import onnxruntime

    both = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
    monkeypatch.setattr("agesdk.backends.ort_session.installed_runtimes", lambda: both)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match=r"both installed.*pip uninstall -y onnxruntime onnxruntime-gpu"):
        load_engine(bundle, "sum", provider="cuda")


def test_the_rtx_plugin_without_its_library_is_an_error(bundle, tmp_path, monkeypatch):
    """A package of the plugin's shape, whose library does not load: the real message of the real call."""
    (tmp_path / "onnxruntime_ep_nv_tensorrt_rtx.py").write_text(
        "def get_ep_name(): return 'NvTensorRTRTXExecutionProvider'\n"
        "def get_library_path(): return '/nowhere/libonnxruntime_providers_nv_tensorrt_rtx.so'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", raising=False)
    with pytest.raises(BackendError, match=r"did not start.*libonnxruntime_providers_nv_tensorrt_rtx"):
        load_engine(bundle, "sum", provider="tensorrt-rtx")
    monkeypatch.delitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", raising=False)


def test_an_optimised_graph_is_written_and_opened_as_it_is(bundle, tmp_path):
    path, component = str(bundle.component_path("sum")), bundle.component("sum")
    open_session(path, component, "cpu", save_to=tmp_path / "model.onnx")
    session, _ = open_session(str(tmp_path / "model.onnx"), component, "cpu", optimised=True)
    given = feeds()
    np.testing.assert_array_equal(
        session.run(["total"], given)[0], load_engine(bundle, "sum").run(given)["total"]
    )
