"""Native engines: what happens on this machine without a GPU, and the order of calls on a stand-in for one.

`FakeCuda` keeps "device" memory in host buffers, and `FakeLibrary` has an engine that computes
``total = x + y`` from the addresses it was given; so addresses, shapes, copies, graphs and lifetimes are
checked, the GPU itself is not.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
from types import SimpleNamespace

import numpy as np
import pytest

from agesdk.backends import cuda, load_engine, tensorrt
from agesdk.backends.cuda import Gpu, cuda_failure
from agesdk.backends.trt_library import Library
from agesdk.bundle import Bundle, Component, FaceAnalysisSettings, Manifest, TensorSpec, write_manifest
from agesdk.engine_cache import EngineCache, EngineRecord
from agesdk.engine_key import EngineKey, graph_hash, host_platform
from agesdk.errors import BackendError, UsageError

GPU = Gpu("NVIDIA GeForce RTX 4090", "8.9", "12.8", 24 * 10**9)
INPUTS = (TensorSpec("x", "float32", ("batch", 3)), TensorSpec("y", "float32", ("batch", 3)))
OUTPUTS = (TensorSpec("total", "float32", ("batch", 3)),)
PROFILE = {"batch": (1, 2, 6)}


@pytest.mark.parametrize(
    ("backend", "told"),
    [("tensorrt", r"TensorRT is not installed.*JetPack"), ("tensorrt-rtx", r"no NVIDIA driver.*onnxruntime")],
)
def test_without_a_gpu_the_error_says_what_is_missing(backend, told) -> None:
    """No stand-in: this is what TensorRT-RTX and CUDA's runtime say here."""
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("NOT TESTED: this machine has an NVIDIA GPU")
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("cuda.bindings")
    with pytest.raises(BackendError, match=told):
        load_engine(Bundle.open(kind="zone-aging", verify=False), "denoise", backend)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("provider", ["cpu", "cuda", "tensorrt-rtx", ""])
def test_a_provider_is_refused_and_not_ignored(backend, provider) -> None:
    with pytest.raises(UsageError, match=rf'"{backend}" has no provider "{provider}".*Leave'):
        load_engine(Bundle.open(kind="zone-aging", verify=False), "denoise", backend, provider)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("cudaErrorNoDevice", "no NVIDIA GPU"),
        ("cudaErrorMemoryAllocation", "memory is full"),
        ("cudaErrorIllegalAddress", "Start again"),
        ("cudaErrorUnknown", "some text"),
    ],
)
def test_cuda_errors_have_advice(error, told) -> None:
    assert told in str(cuda_failure("cudaMalloc", error, "some text"))


class FakeCuda:
    """CUDA's runtime API on host memory; a graph is the list of calls that were captured."""

    class cudaError_t:
        cudaSuccess = 0

    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToDevice=2, cudaMemcpyDeviceToHost=3
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array] = {}
        self.captured: list | None = None
        self.launches = 0
        self.graphs = 0

    def cudaStreamCreate(self):
        return 0, 7

    def cudaStreamSynchronize(self, stream):
        return (0,)

    def cudaMalloc(self, size):
        buffer = ctypes.create_string_buffer(b"\xff" * size, size)  # NaN until something is written
        self.memory[ctypes.addressof(buffer)] = buffer
        return 0, ctypes.addressof(buffer)

    def cudaFree(self, address):
        del self.memory[address]
        return (0,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        assert self.captured is None, "copies are not part of the graph"
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.captured = []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        captured, self.captured = self.captured, None
        return 0, captured

    def cudaGraphInstantiate(self, graph, flags):
        self.graphs += 1
        return 0, list(graph)

    def cudaGraphDestroy(self, graph):
        return (0,)

    def cudaGraphExecDestroy(self, graph):
        self.graphs -= 1
        return (0,)

    def cudaGraphLaunch(self, graph, stream):
        self.launches += 1
        for work in graph:
            work()
        return (0,)


class FakeContext:
    def __init__(self, fake: FakeCuda) -> None:
        self.fake = fake
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.enqueued = 0
        self.workspace = 0

    def set_optimization_profile_async(self, index, stream):
        self.profile = index
        return True

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name):
        return self.shapes["x"]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def set_device_memory(self, address, size):
        self.workspace = address

    def execute_async_v3(self, stream):
        assert self.workspace in self.fake.memory
        if self.fake.captured is not None:
            self.fake.captured.append(self.compute)
        else:
            self.enqueued += 1
            self.compute()
        return True

    def compute(self):
        count = int(np.prod(self.shapes["x"]))
        x, y, total = (
            np.ctypeslib.as_array(ctypes.cast(self.addresses[name], ctypes.POINTER(ctypes.c_float)), (count,))
            for name in ("x", "y", "total")
        )
        total[:] = x + y


class FakeEngine:
    device_memory_size_v2 = 1000
    num_io_tensors = 3
    names = ("x", "y", "total")

    def __init__(self, fake: FakeCuda) -> None:
        self.fake = fake
        self.contexts: list[FakeContext] = []
        self.dtype = "FLOAT"

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.dtype)

    def get_tensor_shape(self, name):
        return (-1, 3)

    def get_tensor_mode(self, name):
        return "out" if name == "total" else "in"

    def create_execution_context(self, strategy):
        self.contexts.append(FakeContext(self.fake))
        return self.contexts[-1]


class FakeLogger:
    Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, WARNING=2)


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    folder = tmp_path / "bundle"
    (folder / "components" / "sum").mkdir(parents=True)
    (folder / "components" / "sum" / "model.onnx").write_bytes(b"")
    component = Component("sum", "fp32", ("components/sum/model.onnx",), INPUTS, OUTPUTS, PROFILE)
    write_manifest(folder, Manifest("face-analysis", "sum", "1", {"sum": component}, FaceAnalysisSettings()))
    return Bundle.open(folder)


@pytest.fixture
def device(monkeypatch, tmp_path, bundle):
    """A stand-in GPU with one built engine; gives what the tests look at."""
    fake = FakeCuda()
    engine = FakeEngine(fake)
    seen = SimpleNamespace(fake=fake, engine=engine, content=None)

    class Runtime:
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, content):
            seen.content = content[:]
            return engine

    api = SimpleNamespace(
        ILogger=FakeLogger,
        Runtime=Runtime,
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=2),
    )
    library = Library("tensorrt", api, "10.3.0")
    monkeypatch.setattr(cuda, "cudart", lambda: fake)
    monkeypatch.setattr(cuda, "current_gpu", lambda: GPU)
    monkeypatch.setattr(tensorrt, "import_library", lambda name: library)
    monkeypatch.setenv("AGESDK_CACHE", str(tmp_path / "cache"))
    tensorrt._device.cache_clear()
    store(bundle)
    yield seen
    tensorrt._device.cache_clear()


def store(bundle: Bundle, profiles=(PROFILE,)) -> None:
    key = EngineKey(
        graph=graph_hash(bundle, "sum"),
        bundle_profile=PROFILE,
        profiles=profiles,
        runtime="tensorrt",
        runtime_version="10.3.0",
        platform=host_platform(),
        compute_capabilities=("8.9",),
        gpu=GPU.name,
        driver=GPU.driver,
        optimization_level=3,
    )
    record = EngineRecord("sum", "sum", "fp32", key, INPUTS, OUTPUTS, "", 0, "", "2026", 1.0, 1.0, None, "0")
    with EngineCache().writing() as writer:
        made = writer.temporary()
        made.write_bytes(b"plan")
        writer.commit(made, record)


def feeds(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((batch, 3), dtype=np.float32) for name in ("x", "y")}


def test_the_engine_of_the_cache_runs_at_every_shape(device, bundle) -> None:
    engine = load_engine(bundle, "sum", "tensorrt")
    assert device.content == b"plan"
    assert (engine.inputs, engine.outputs, engine.profile) == (INPUTS, OUTPUTS, PROFILE)
    for turn, batch in enumerate((1, 6, 1, 2, 6, 1)):
        given = feeds(batch, turn)
        total = engine.to_host(engine.run(given)["total"])
        np.testing.assert_array_equal(total, given["x"] + given["y"])
    assert len(device.engine.contexts) == 3


def test_the_first_run_is_plain_and_the_next_are_one_graph(device, bundle) -> None:
    engine = load_engine(bundle, "sum", "tensorrt")
    for turn in range(5):
        given = feeds(2, turn)
        np.testing.assert_array_equal(engine.to_host(engine.run(given)["total"]), given["x"] + given["y"])
    (context,) = device.engine.contexts
    assert context.enqueued == 1
    assert device.fake.graphs == 1
    assert device.fake.launches == 4


def test_what_stays_on_the_device_feeds_the_next_run(device, bundle) -> None:
    engine = load_engine(bundle, "sum", "tensorrt")
    given = feeds(2)
    shared = engine.to_device(given["y"])
    sample = engine.run({"x": given["x"], "y": shared})["total"]
    for _ in range(3):
        sample = engine.run({"x": sample, "y": shared})["total"]
    wanted = given["x"] + given["y"]
    for _ in range(3):
        wanted = wanted + given["y"]
    np.testing.assert_array_equal(engine.to_host(sample), wanted)


def test_a_tensor_that_was_overwritten_is_an_error_and_not_another_result(device, bundle) -> None:
    engine = load_engine(bundle, "sum", "tensorrt")
    first = engine.run(feeds(2))["total"]
    other_shape = engine.run(feeds(3))["total"]
    engine.to_host(first)
    engine.run(feeds(2, 1))
    with pytest.raises(BackendError, match="overwritten"):
        engine.to_host(first)
    with pytest.raises(BackendError, match="overwritten"):
        engine.run({"x": first, "y": first})
    engine.to_host(other_shape)


def test_shapes_beyond_the_limit_are_dropped_and_their_tensors_live_on(device, bundle, monkeypatch) -> None:
    monkeypatch.setattr(tensorrt, "MAX_SHAPES", 2)
    engine = load_engine(bundle, "sum", "tensorrt")
    given = feeds(1)
    kept = engine.run(given)["total"]
    for batch in (2, 3, 4):
        engine.run(feeds(batch))
    np.testing.assert_array_equal(engine.to_host(kept), given["x"] + given["y"])
    blocks = len(device.fake.memory)
    del kept
    assert len(device.fake.memory) == blocks - 1
    assert len(device.fake.memory) == 3  # two shapes and the workspace


def test_a_larger_engine_moves_the_shared_workspace(device, bundle) -> None:
    first = load_engine(bundle, "sum", "tensorrt")
    given = feeds(2)
    for _ in range(3):
        first.run(given)
    device.engine.device_memory_size_v2 = 5000
    second = load_engine(bundle, "sum", "tensorrt")
    for engine in (first, second, first, second):
        np.testing.assert_array_equal(engine.to_host(engine.run(given)["total"]), given["x"] + given["y"])
    workspaces = {context.workspace for context in device.engine.contexts}
    assert len(workspaces) == 1
    assert len(device.fake.memory[workspaces.pop()]) == 5000


def test_profiles_of_the_engine_decide_what_may_be_fed(device, bundle) -> None:
    store(bundle, profiles=({"batch": (4, 4, 4)}, {"batch": (1, 1, 2)}))
    with EngineCache().writing() as writer:
        (old,) = [e for e in EngineCache().entries() if e.record.key.profiles == (PROFILE,)]
        writer.remove(old)
    engine = load_engine(bundle, "sum", "tensorrt")
    assert engine.profile == {"batch": (1, 4, 4)}
    for batch, index in ((4, 0), (1, 1), (2, 1)):
        engine.run(feeds(batch))
        assert device.engine.contexts[-1].profile == index
    with pytest.raises(BackendError, match=r"not built for batch 3.*batch=4:4:4 and batch=1:1:2"):
        engine.run(feeds(3))
    with pytest.raises(BackendError, match=r"1 to 4"):
        engine.run(feeds(5))


def test_guidance_is_that_of_the_other_backends(device, bundle) -> None:
    engine = load_engine(bundle, "sum", "tensorrt")
    halves = engine.run(feeds(4))["total"]
    null, conditioned = np.split(engine.to_host(halves), 2)
    guided = null + 3 * (conditioned - null)
    np.testing.assert_allclose(engine.guide(halves, 3.0), np.concatenate([guided, guided]), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"compute_capability": "8.6"}, r"compute capability 8\.9 → 8\.6.*--target local:tensorrt "),
        ({"name": "NVIDIA L4"}, r"GPU NVIDIA GeForce RTX 4090 → NVIDIA L4"),
        ({"driver": "13.0"}, r"CUDA driver 12\.8 → 13\.0"),
    ],
)
def test_an_engine_of_another_device_is_refused(device, bundle, monkeypatch, change, told) -> None:
    monkeypatch.setattr(cuda, "current_gpu", lambda: dataclasses.replace(GPU, **change))
    with pytest.raises(BackendError, match=told):
        load_engine(bundle, "sum", "tensorrt")


def test_an_engine_whose_tensors_are_not_the_manifests_is_told(device, bundle) -> None:
    device.engine.dtype = "HALF"
    with pytest.raises(BackendError, match=r'"x" in the engine sum-.* is float16'):
        load_engine(bundle, "sum", "tensorrt")


def test_wrong_feeds_are_told(device, bundle) -> None:
    engine = load_engine(bundle, "sum", "tensorrt")
    with pytest.raises(BackendError, match=r'"y".*missing'):
        engine.run({"x": feeds(1)["x"]})
    with pytest.raises(BackendError, match="list"):
        engine.run({"x": [1.0], "y": [1.0]})
    with pytest.raises(BackendError, match="float64"):
        engine.run({name: array.astype(np.float64) for name, array in feeds(1).items()})
