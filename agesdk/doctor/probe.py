"""Probes that may crash, so each runs in a process of its own: ``python -m agesdk.doctor.probe NAME``.

The last line of a probe's output is a JSON object: ``{"detail": ...}`` where it works, and ``what``, ``why``,
``fix`` where it does not.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable

import numpy as np

from agesdk.backends.trt_library import import_library
from agesdk.engine_key import RuntimeName
from agesdk.errors import AgeSDKError, BackendError

_COMPONENT = "condition_encoder"
_TOLERANCE = 0.02
"""Of the golden's largest value: above what TF32 does to two layers, far below a wrong result."""


def try_provider(provider: str) -> str:
    """Open a small component of the embedded bundle on an ONNX Runtime provider, and check its result."""
    from agesdk.backends import load_engine
    from agesdk.bundle import Bundle

    bundle = Bundle.open(None, "zone-aging")
    engine = load_engine(bundle, _COMPONENT, provider=provider)
    golden = bundle.golden(_COMPONENT)
    outputs = engine.run({spec.name: golden[f"input.{spec.name}"] for spec in engine.inputs})
    worst = 0.0
    for spec in engine.outputs:
        wanted = golden[f"output.{spec.name}"]
        error = np.abs(engine.to_host(outputs[spec.name]) - wanted).max() / np.abs(wanted).max()
        worst = max(worst, float(error))
    if not worst <= _TOLERANCE:  # NaN fails too
        raise BackendError(
            f'The provider "{provider}" computes wrong results.',
            f"They differ from the recorded ones by {100 * worst:.2g} % of the largest value",
            "Update the driver and ONNX Runtime; report it if that does not help.",
        )
    return f"runs; differs from the recorded result by {100 * worst:.2g} %"


def try_cuda() -> str:
    """Start CUDA's driver and count its devices, through the driver's own library."""
    library = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise BackendError(
            "CUDA's driver is not installed.", str(error), "Install NVIDIA's driver; `nvidia-smi` tests it."
        ) from None
    code = driver.cuInit(0)
    if code != 0:
        raise BackendError(
            "CUDA's driver does not start.",
            f"cuInit returned {code}",
            "Restart; a container must be given the GPU (`docker run --gpus all`; Jetson: --runtime nvidia).",
        )
    count, version = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    driver.cuDriverGetVersion(ctypes.byref(version))
    if count.value == 0:
        raise BackendError("CUDA finds no GPU.", "", "Give the process a GPU: see CUDA_VISIBLE_DEVICES.")
    return f"{count.value} device(s), CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def try_tensorrt(runtime: RuntimeName) -> str:
    """Load TensorRT or TensorRT-RTX with its native libraries, make a builder, and start CUDA."""
    library = import_library(runtime)
    library.api.Builder(library.api.Logger(library.api.Logger.ERROR))
    return f"{library.version}; {try_cuda()}"


PROBES: dict[str, Callable[[], str]] = {
    "cpu": lambda: try_provider("cpu"),
    "cuda": lambda: try_provider("cuda"),
    "tensorrt": lambda: try_provider("tensorrt"),
    "tensorrt-rtx": lambda: try_provider("tensorrt-rtx"),
    "native-tensorrt": lambda: try_tensorrt("tensorrt"),
    "native-tensorrt-rtx": lambda: try_tensorrt("tensorrt-rtx"),
    "cuda-driver": try_cuda,
}
"""The first four are providers of ONNX Runtime, the native ones the libraries of the backend ``tensorrt``."""


def main(name: str) -> None:
    """Run a probe and print its result."""
    try:
        result = {"detail": PROBES[name]()}
    except AgeSDKError as error:
        result = {"what": error.what, "why": error.why, "fix": error.fix}
    except Exception as error:  # whatever a vendor's library raises is a finding, not the end
        result = {"what": f"The probe {name} failed.", "why": f"{type(error).__name__}: {error}", "fix": ""}
    sys.stdout.write(f"\n{json.dumps(result)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
