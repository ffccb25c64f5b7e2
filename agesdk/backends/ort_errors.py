"""One place that turns what ONNX Runtime says into what a user can do about it.

ONNX Runtime reports a library that is missing on stderr and then a session without the provider, or a message
of C++ file names. `explain` recognises the messages; `why_not_loaded` asks the dynamic loader, which names
the library.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REINSTALL_GPU = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
INSTALL_CUDA = (
    'Install the CUDA and cuDNN versions it names: `pip install "onnxruntime-gpu[cuda,cudnn]"`, or NVIDIA\'s '
    "packages of the system"
)
EXPORT_AGAIN = "Export the bundle again."

_LIBRARIES = {
    "CUDAExecutionProvider": "onnxruntime_providers_cuda",
    "TensorrtExecutionProvider": "onnxruntime_providers_tensorrt",
    "NvTensorRTRTXExecutionProvider": "onnxruntime_providers_nv_tensorrt_rtx",
}
_MESSAGE_LIMIT = 400


@dataclass(frozen=True)
class Advice:
    """Why a call into ONNX Runtime failed, and what repairs it ("" where that is not known)."""

    why: str
    fix: str


@dataclass(frozen=True)
class _Rule:
    """A message by pattern; ``why`` may use the pattern's groups."""

    pattern: str
    why: str
    fix: str


_NO_MEMORY = (
    "Free memory, run fewer zones or pictures at once, or use a smaller or a half-precision bundle; "
    "`agesdk doctor` shows what is free."
)
_UPDATE_DRIVER = "Install or update NVIDIA's driver; `nvidia-smi` must list the GPU. Or use provider='cpu'."
_UPGRADE = "Run `pip install --upgrade onnxruntime` (or onnxruntime-gpu)."

_RULES = (
    _Rule(
        r"(?P<library>libcuda\.so[.\d]*|nvcuda\.dll)",
        "NVIDIA's driver is not installed: {library} was not found",
        _UPDATE_DRIVER,
    ),
    _Rule(
        r"(?P<library>lib(?:nvinfer|nvonnxparser)\w*\.so[.\d]*|nvinfer\w*\.dll)",
        "the TensorRT library {library} was not found",
        "Install the TensorRT version that this ONNX Runtime was built with, and put it on the library path "
        "(LD_LIBRARY_PATH; PATH on Windows). Or use provider='cuda'.",
    ),
    _Rule(
        r"(?P<library>lib(?:cu|nv)\w*\.so[.\d]*): cannot open shared object",
        "the CUDA library {library} was not found",
        f"{INSTALL_CUDA}. Or use provider='cpu'.",
    ),
    _Rule(r'LoadLibrary failed with error 126 "?"?', "a library it depends on was not found", INSTALL_CUDA),
    _Rule(
        r"Please install TensorRT libraries",
        "the TensorRT libraries, or the CUDA libraries under them, were not found",
        f"Install the TensorRT version that this ONNX Runtime was built with. {INSTALL_CUDA}. "
        "Or use provider='cuda' or 'cpu'.",
    ),
    _Rule(
        r"(?i)CUDA driver version is insufficient|cudaErrorInsufficientDriver|CUDA failure 35\b",
        "the driver is missing, or older than the CUDA of this ONNX Runtime",
        _UPDATE_DRIVER,
    ),
    _Rule(
        r"(?i)no CUDA-capable device|cudaErrorNoDevice|CUDA failure 100\b",
        "CUDA finds no GPU",
        f"{_UPDATE_DRIVER} In a container, start it with access to the GPU (`docker run --gpus all`).",
    ),
    _Rule(
        r"(?i)no kernel image is available|cudaErrorNoKernelImageForDevice",
        "this ONNX Runtime was not compiled for this GPU",
        "Install one that was: on a Jetson a wheel made for its JetPack (`agesdk doctor` names the index).",
    ),
    _Rule(
        r"(?i)failed to allocate memory|out of memory|bad_alloc|cudaErrorMemoryAllocation|BFCArena.*allocate",
        "there is not enough memory",
        _NO_MEMORY,
    ),
    _Rule(
        r"External data path does not exist: \"?(?P<path>[^\"]+)",
        "its weights are missing: {path}",
        "Copy the bundle again, with all its files.",
    ),
    _Rule(
        r"External initializer: (?P<name>\S+) .*out of bounds",
        "the file of its weights is cut short",
        "Copy the bundle again, with all its files.",
    ),
    _Rule(
        r"Opset (?P<opset>\d+) is under development",
        "it uses ONNX opset {opset}, which this ONNX Runtime does not know",
        _UPGRADE,
    ),
    _Rule(
        r"Unsupported model IR version: (?P<ir>\d+), max supported IR version: (?P<known>\d+)",
        "it is in ONNX IR version {ir}, and this ONNX Runtime knows up to {known}",
        _UPGRADE,
    ),
    _Rule(
        r"No Op registered for (?P<op>\S+)",
        "it has the operator {op}, which this ONNX Runtime does not have",
        _UPGRADE,
    ),
    _Rule(
        r"(?P<op>\S+)\(-?\d+\) is not a registered function/op",
        "it has the operator {op}, which this ONNX Runtime does not have",
        _UPGRADE,
    ),
    _Rule(
        r"Could not find an implementation for (?P<op>\S+)",
        "the operator {op} exists but not for the tensor type that the graph uses",
        "Use a bundle of another precision (fp32 runs everywhere), or another provider.",
    ),
    # What to install depends on the provider, so the caller says it.
    _Rule(r"assigned to the default CPU EP", "ONNX Runtime would have run a part of it on the CPU", ""),
    _Rule(r"Protobuf parsing failed|No graph was found", "it is not an ONNX graph", "Copy the bundle again."),
)


def explain(error: BaseException | str) -> Advice:
    """The cause in words and the repair, of an exception of ONNX Runtime or of its text.

    A message that is not known is kept, in one line without C++ locations, and no repair is invented.
    """
    text = " ".join(str(error).split())
    for rule in _RULES:
        match = re.search(rule.pattern, text)
        if match is not None:
            return Advice(rule.why.format(**match.groupdict()), rule.fix)
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(?:cc|h|cpp):\d+ ", "", text)
    return Advice(text if len(text) <= _MESSAGE_LIMIT else f"{text[:_MESSAGE_LIMIT]} …", "")


def why_not_loaded(onnxruntime: Any, ort_provider: str) -> str:
    """What the dynamic loader says about a provider's library, "" if it loads or there is none.

    ONNX Runtime prints this to stderr only. Dependencies are looked up as ONNX Runtime looks them up.
    """
    stem = _LIBRARIES.get(ort_provider)
    folder = Path(onnxruntime.__file__).parent / "capi"
    for name in (f"lib{stem}.so", f"{stem}.dll"):
        if stem and (folder / name).is_file():
            try:
                ctypes.CDLL(str(folder / name))
            except OSError as error:
                return str(error)
    return ""


def installed_runtimes() -> Mapping[str, str]:
    """Version by name of the installed distributions that all provide the module ``onnxruntime``."""
    found = {}
    for name in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
