"""The few CUDA calls that running an engine takes, through cuda-python's bindings, imported when used.

Everything runs on one stream of one device, so work is in order without events.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agesdk.errors import BackendError

_NO_GPU = (
    "Install or update the NVIDIA driver (`nvidia-smi` shows it), in a container pass the GPU through "
    '(`docker run --gpus all`), or use backend="onnxruntime"'
)
_ADVICE = {
    "cudaErrorInsufficientDriver": (
        "there is no NVIDIA driver, or it is older than the installed cuda-bindings",
        _NO_GPU,
    ),
    "cudaErrorNoDevice": ("no NVIDIA GPU is visible", _NO_GPU),
    "cudaErrorInitializationError": ("the driver did not start", _NO_GPU),
    "cudaErrorMemoryAllocation": (
        "the GPU's memory is full",
        "Close other programs on the GPU, or use smaller batches or a smaller bundle",
    ),
    "cudaErrorIllegalAddress": (
        "the GPU read or wrote out of bounds, and the process can not use it any more",
        "Start again; if it comes back, build the engines again",
    ),
}


@dataclass(frozen=True)
class Gpu:
    """The GPU at hand; ``driver`` is the newest CUDA version that the driver supports, ``"13.0"``."""

    name: str
    compute_capability: str
    driver: str
    memory: int


@functools.cache
def cudart() -> Any:
    """The module of CUDA's runtime API; `BackendError` if cuda-bindings is not installed."""
    try:
        from cuda.bindings import runtime
    except (ImportError, OSError) as error:
        raise BackendError(
            "cuda-bindings is not installed",
            str(error),
            'Run `pip install cuda-bindings` (of your CUDA\'s version: "cuda-bindings~=12.6" on JetPack 6)',
        ) from None
    return runtime


def call(name: str, *arguments: Any) -> Any:
    """Call a function of CUDA's runtime API by name; its result, or a `BackendError` with advice."""
    api = cudart()
    status, *results = getattr(api, name)(*arguments)
    if status != api.cudaError_t.cudaSuccess:
        raise cuda_failure(name, status.name, api.cudaGetErrorString(status)[1].decode())
    return results[0] if len(results) == 1 else tuple(results)


def cuda_failure(function: str, error: str, text: str) -> BackendError:
    """The error for a CUDA error name."""
    why, fix = _ADVICE.get(error, (text, ""))
    return BackendError(f"CUDA failed in {function} ({error})", why, fix)


def current_gpu() -> Gpu:
    """The first visible GPU.

    Raises
    ------
    BackendError
        No cuda-bindings, no driver or no GPU.
    """
    count = call("cudaGetDeviceCount")
    if count == 0:
        raise cuda_failure("cudaGetDeviceCount", "cudaErrorNoDevice", "no device")
    properties = call("cudaGetDeviceProperties", 0)
    version = call("cudaDriverGetVersion")
    return Gpu(
        properties.name.decode(errors="replace").rstrip("\0"),
        f"{properties.major}.{properties.minor}",
        f"{version // 1000}.{version % 1000 // 10}",
        int(properties.totalGlobalMem),
    )


class Graph:
    """An instantiated CUDA graph, destroyed with this object."""

    def __init__(self, executable: Any) -> None:
        self.executable = executable
        weakref.finalize(self, call, "cudaGraphExecDestroy", executable).atexit = False


class Stream:
    """A CUDA stream with the copies and the graph capture that engines need."""

    def __init__(self) -> None:
        self.handle = int(call("cudaStreamCreate"))

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device; the array may be changed afterwards."""
        kind = cudart().cudaMemcpyKind.cudaMemcpyHostToDevice
        call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.handle)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy within the device."""
        kind = cudart().cudaMemcpyKind.cudaMemcpyDeviceToDevice
        call("cudaMemcpyAsync", target, source, size, kind, self.handle)

    def download(self, array: np.ndarray, address: int) -> None:
        """Copy from the device into a contiguous array, and wait until it is there."""
        kind = cudart().cudaMemcpyKind.cudaMemcpyDeviceToHost
        call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self.handle)
        self.wait()

    def wait(self) -> None:
        call("cudaStreamSynchronize", self.handle)

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """Record what `enqueue` puts on the stream, without running it."""
        mode = cudart().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", self.handle, mode)
        try:
            enqueue()
        except BackendError:
            with contextlib.suppress(BackendError):  # the reason is the one that enqueue gave
                call("cudaGraphDestroy", call("cudaStreamEndCapture", self.handle))
            raise
        recorded = call("cudaStreamEndCapture", self.handle)
        executable = call("cudaGraphInstantiate", recorded, 0)
        call("cudaGraphDestroy", recorded)
        return Graph(executable)

    def launch(self, graph: Graph) -> None:
        call("cudaGraphLaunch", graph.executable, self.handle)


def allocate(size: int) -> int:
    """Device memory of `size` bytes, aligned to 256; its address."""
    return int(call("cudaMalloc", size))


def free(address: int) -> None:
    call("cudaFree", address)
