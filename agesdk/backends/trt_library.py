"""The TensorRT libraries: importing one, its log, and its errors in words that say what to do.

`tensorrt` (10 and 11) and `tensorrt_rtx` have the same Python interface as far as it is used here, so the
rest of the code does not ask which one it has.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agesdk.engine_key import TITLES, RuntimeName
from agesdk.errors import BackendError

if TYPE_CHECKING:
    import tensorrt as trt

logger = logging.getLogger(__name__)

_MODULES: dict[RuntimeName, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_INSTALL: dict[RuntimeName, str] = {
    "tensorrt": (
        "Install TensorRT 10 or later: `pip install tensorrt` on x86-64; on a Jetson it comes with JetPack "
        "(`sudo apt install python3-libnvinfer`, and a virtual environment with --system-site-packages)"
    ),
    "tensorrt-rtx": "Run `pip install tensorrt-rtx` (x86-64 Windows and Linux, GeForce and RTX GPUs)",
}


NUMPY_OF_TENSORRT = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT64": "int64",
    "INT32": "int32",
    "UINT8": "uint8",
    "INT8": "int8",
    "BOOL": "bool",
}
"""Names of TensorRT's data types -> numpy's."""


@dataclass(frozen=True)
class Library:
    """An imported TensorRT; ``api`` is its module."""

    name: RuntimeName
    api: Any
    version: str

    @property
    def title(self) -> str:
        return TITLES[self.name]


def import_library(name: RuntimeName) -> Library:
    """Import TensorRT or TensorRT-RTX.

    Raises
    ------
    BackendError
        It is not installed, its libraries do not load, or it is older than TensorRT 10.
    """
    try:
        api = importlib.import_module(_MODULES[name])
    except (ImportError, OSError) as error:
        raise BackendError(f"{TITLES[name]} is not installed", str(error), _INSTALL[name]) from None
    # A folder of type stubs makes the import of a missing `tensorrt` succeed with an empty module.
    if not hasattr(api, "Runtime"):
        raise BackendError(f"{TITLES[name]} is not installed", "only its type stubs are", _INSTALL[name])
    version = str(api.__version__)
    if name == "tensorrt" and int(version.partition(".")[0]) < 10:
        raise BackendError("TensorRT is too old", f"version {version} is installed", _INSTALL[name])
    return Library(name, api, version)


def sizes_of(dims: trt.Dims) -> tuple[int, ...]:
    """The sizes of a shape; -1 is a dynamic axis."""
    return tuple(int(dims[index]) for index in range(len(dims)))


class LogKeeper:
    """Passes TensorRT's log on to `logging`, and keeps the errors for the exception that they cause.

    Attributes
    ----------
    errors:
        Messages of the severities ERROR and INTERNAL_ERROR since the last `clear`, without the harmless.
    """

    def __init__(self, library: Library) -> None:
        self.errors: list[str] = []
        self._severity = library.api.ILogger.Severity
        self.sink: trt.ILogger = _sink(library.api.ILogger, self._log)

    def clear(self) -> None:
        self.errors.clear()

    def _log(self, severity: Any, message: str) -> None:
        severe = severity in (self._severity.ERROR, self._severity.INTERNAL_ERROR)
        if severe and not is_harmless(message):
            self.errors.append(message)
            logger.info("%s", message)
        elif severity == self._severity.WARNING and not is_harmless(message):
            logger.info("%s", message)
        else:
            logger.debug("%s", message)


def _sink(base: Any, log: Any) -> Any:
    """An instance of the library's own logger class, which only exists once the library is imported."""

    class Sink(base):
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log(severity, message)

    return Sink()


_HARMLESS = (
    r"[Ss]kipping tactic",
    r"Tactic .* (is )?skipp?ed",
    r"Unable to allocate .* for tactic",
    r"Make sure input .* has Int64 binding",
    r"Using default stream in enqueueV3",
    r"[Nn]o implementation.*will be (skipped|ignored)",
    r"^While parsing node number|^--- (Begin|End) node ---|^Node name:|^ModelImporter\.cpp:\d+: (---|While)",
)


def is_harmless(message: str) -> bool:
    """Whether a line of TensorRT's log reports no failure, whatever its severity: a tactic that does not fit
    is one candidate less, and the lines around an error repeat it."""
    return any(re.search(pattern, message) for pattern in _HARMLESS)


_UPDATE_DRIVER = (
    "Install or update the NVIDIA driver (`nvidia-smi` shows it) and run on a machine with an NVIDIA GPU; "
    'without one use backend="onnxruntime"'
)
_EXPORT_FP16 = "Export the bundle with --precision fp16, or leave 7.5 (Turing) out of the target"
_EXPORT_AGAIN = "Export the bundle again with this version; if it stays, report the node"

_ADVICE: tuple[tuple[str, str, str], ...] = (
    (r"FP32 GEMM is not supported", "Turing GPUs have no float32 matrix products there", _EXPORT_FP16),
    (
        r"OutOfMemory|out of memory|insufficient memory|std::bad_alloc|cudaError 2\b",
        "the memory was not enough",
        "Close other programs, build one --component at a time, or give a smaller --profile",
    ),
    (
        r"must have type|must all be of the same type|types? .*(mismatch|not match)|incompatible types",
        "the graph mixes types, which strongly typed TensorRT refuses",
        _EXPORT_AGAIN,
    ),
    (
        r"no importer registered|[Uu]nsupported operator|Plugin not found|No plugin",
        "this TensorRT does not know the operator",
        "Use a newer TensorRT, or run this component on ONNX Runtime",
    ),
    (
        r"not compatible|expecting library version|[Vv]ersion (tag )?(does not match|mismatch)",
        "the engine belongs to another release or another GPU",
        "Build it again with `python -m engines build`",
    ),
    (
        r"[Cc]ould not find any implementation|no implementation|No supported formats",
        "TensorRT has no kernel for it on this target at this precision",
        "Try a newer TensorRT or another precision",
    ),
    # Last: ahead of time, the missing driver is mentioned beside the real reason.
    (
        r"cudaError 35|driver version is insufficient|cudaErrorInsufficientDriver",
        "there is no NVIDIA driver, or it is older than the CUDA version TensorRT was made for",
        _UPDATE_DRIVER,
    ),
    (
        r"cudaError 100\b|no CUDA-capable device|cudaErrorNoDevice",
        "there is no NVIDIA GPU, or it is hidden (CUDA_VISIBLE_DEVICES, a container without --gpus)",
        _UPDATE_DRIVER,
    ),
)

_NODES = (
    r"(?:operation|node|layer) '([^']+)'",
    r"Invalid Node - (\S+)",
    r"Error Code \d+: [^(]*\(([\w./:-]+): ",
    r"ForeignNode\[([^\]]+)\]",
)


def failure(what: str, messages: Sequence[str], node: str = "") -> BackendError:
    """What TensorRT said, as an error with the node's name, the cause and advice.

    Parameters
    ----------
    what:
        What was being done.
    messages:
        Its errors, in order.
    node:
        The node, where the parser names it; else it is looked for in the messages.
    """
    text = "\n".join(messages)
    node = node or next((m.group(1) for m in (re.search(p, text) for p in _NODES) if m), "")
    where = f"{what.rstrip('.')} at the node {node}" if node else what
    said = re.sub(r"\s+", " ", messages[0])[:400] if messages else "TensorRT gave no reason"
    for pattern, why, fix in _ADVICE:
        if match := re.search(pattern, text):
            said = next(re.sub(r"\s+", " ", m)[:400] for m in messages if match.group(0) in m)
            return BackendError(where, f"{why} ({said})", fix)
    return BackendError(where, said, "Run with --verbose for TensorRT's whole log")
