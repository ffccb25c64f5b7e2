"""Opening ONNX Runtime sessions on exactly the provider that was asked for.

ONNX Runtime falls back to the CPU without an error when a provider fails to load, and lists the providers it
was compiled with, not those that work. Here a session either runs on its provider or is a `BackendError`:

- the provider must lead the created session's list of providers;
- TensorRT and TensorRT-RTX take a graph whole: `session.disable_cpu_ep_fallback` refuses anything less;
- CUDA may leave to the CPU what computes shapes, as ONNX Runtime itself decides, so that flag would refuse
  sound sessions; instead the recorded assignment of every node is looked at (ONNX Runtime 1.24 and later).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agesdk.backends.base import did_you_mean, listed
from agesdk.backends.ort_errors import REINSTALL_GPU, explain, installed_runtimes, why_not_loaded
from agesdk.bundle import Component, TensorSpec
from agesdk.cache_dir import cache_folder
from agesdk.errors import BackendError, UsageError

logger = logging.getLogger(__name__)

RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
_NVIDIA_VENDOR = 0x10DE


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes
    ----------
    name, ort_name:
        As users and as ONNX Runtime call it.
    memory:
        Device type, index and PCI vendor (-1: none) of its tensors; None for host memory.
    install:
        What to do where it is not available.
    """

    name: str
    ort_name: str
    memory: tuple[str, int, int] | None
    install: str


_INSTALL_GPU = (
    "Install `onnxruntime-gpu` in an environment without `onnxruntime`, with the CUDA and cuDNN versions its "
    "release notes name"
)
PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("cpu", "CPUExecutionProvider", None, "Install `onnxruntime`."),
        Provider(
            "cuda",
            "CUDAExecutionProvider",
            ("cuda", 0, -1),
            f"{_INSTALL_GPU}; or use provider='cpu'.",
        ),
        Provider(
            "tensorrt",
            "TensorrtExecutionProvider",
            ("cuda", 0, -1),
            f"{_INSTALL_GPU}, and the TensorRT libraries; or use provider='cpu'.",
        ),
        Provider(
            "tensorrt-rtx",
            "NvTensorRTRTXExecutionProvider",
            ("gpu", 0, _NVIDIA_VENDOR),
            "On an RTX PC (x86-64, Ampere or later), run `pip install 'onnxruntime>=1.24' "
            "onnxruntime-ep-nv-tensorrt-rtx` (CUDA 12: onnxruntime-ep-nv-tensorrt-rtx-cu12); "
            "or use provider='cpu'.",
        ),
    )
}
"""By the name that users give. `docs/deploy-rtx.md` and `docs/deploy-jetson.md` say what each needs."""

_SHAPE_OPERATORS = frozenset({
    "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand",
    "Floor", "Gather", "GatherElements", "Greater", "GreaterOrEqual", "Identity", "If", "Less",
    "LessOrEqual", "Max", "MemcpyFromHost", "MemcpyToHost", "Min", "Mod", "Mul", "Neg", "Not", "Or",
    "Pow", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Shape", "Size",
    "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""What ONNX Runtime may keep on the CPU beside a GPU: arithmetic on shapes. Anything else there is a
fallback."""

_registration = threading.Lock()


def open_session(
    graph: str | bytes,
    component: Component,
    provider: str,
    threads: int | None = None,
    optimised: bool = False,
    save_to: Path | None = None,
) -> tuple[Any, Provider]:
    """A session on the provider, with what an inference service wants of ONNX Runtime.

    Parameters
    ----------
    graph:
        The path of an ``.onnx`` file, or its content.
    component:
        Its name, for messages, and its profile, from which TensorRT's optimisation profile is made.
    provider:
        A key of `PROVIDERS`.
    threads:
        Threads inside an operator; None: as many as there are physical cores.
    optimised:
        The graph was written with ``save_to``: it is taken as it is.
    save_to:
        Where to write the optimised graph; its weights go beside it, ``.data`` added to its name.

    Raises
    ------
    BackendError
        ONNX Runtime or the provider is not installed, does not start, or does not take the graph.
    UsageError
        There is no such provider.
    """
    onnxruntime = import_onnxruntime()
    wanted = _known(provider)
    options = _options(onnxruntime, threads)
    if optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{save_to.name}.data"
        )
    arguments: dict[str, Any] = {}
    devices: Sequence[Any] = ()
    if wanted.name == "tensorrt-rtx":
        devices = _plugin_devices(onnxruntime, wanted)
    if not devices:
        _check_available(onnxruntime, wanted)
        arguments["providers"] = [(wanted.ort_name, provider_options(wanted, component))]
    try:
        if devices:
            options.add_provider_for_devices(list(devices), provider_options(wanted, component))
        elif wanted.memory is not None:
            _preload_cuda(onnxruntime)
        if wanted.name in ("tensorrt", "tensorrt-rtx"):
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            logger.info("%s compiles %s, which may take minutes the first time", provider, component.name)
        elif wanted.name == "cuda":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        session = onnxruntime.InferenceSession(graph, options, enable_fallback=0, **arguments)
    except Exception as error:  # ONNX Runtime's exceptions have no common public base
        raise _not_opened(onnxruntime, wanted, component, error) from error
    _check_started(onnxruntime, session, wanted, component)
    _check_assignment(session, wanted, component)
    session.disable_fallback()
    logger.debug("opened %s on %s", component.name, session.get_providers())
    return session, wanted


def import_onnxruntime() -> Any:
    """The module; `BackendError` where it is not installed or does not load."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise BackendError(
            "ONNX Runtime is not installed, or does not load.",
            str(error),
            "Run `pip install --force-reinstall onnxruntime`.",
        ) from error


def provider_options(provider: Provider, component: Component) -> dict[str, str]:
    """Options of the provider for a component.

    Both TensorRT providers get the bundle's profile, without which they compile for the shapes that come
    first and again for others, and a folder of the user's cache for what they compile.
    """
    if provider.name == "cuda":
        return {"device_id": "0"}
    if provider.name not in ("tensorrt", "tensorrt-rtx"):
        return {}
    folder = str(cache_folder("onnxruntime", provider.name))
    prefix = "trt" if provider.name == "tensorrt" else "nv"
    options = {
        f"{prefix}_profile_{bound}_shapes": _profile(component, index)
        for index, bound in enumerate(("min", "opt", "max"))
    }
    if provider.name == "tensorrt-rtx":
        return {**options, "nv_runtime_cache_path": folder}
    return {
        **options,
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }


def _profile(component: Component, bound: int) -> str:
    """``input:2x3x128x128,other:2``: every input that has a symbolic axis, at one bound of the profile."""

    def shape(spec: TensorSpec) -> str:
        return "x".join(
            str(size if isinstance(size, int) else component.profile[size][bound]) for size in spec.shape
        )

    dynamic = [spec for spec in component.inputs if any(isinstance(size, str) for size in spec.shape)]
    return ",".join(f"{spec.name}:{shape(spec)}" for spec in dynamic)


def _options(onnxruntime: Any, threads: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    # Threads that wait in a busy loop take cores from the other sessions and from the application. With two
    # threads they cost 3 to 21 % more processor time, and beside other work made every graph slower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _known(provider: str) -> Provider:
    if provider not in PROVIDERS:
        raise UsageError(
            f'The provider "{provider}" is unknown.',
            f"ONNX Runtime is used with {listed(PROVIDERS)}.",
            did_you_mean(provider, list(PROVIDERS)),
        )
    return PROVIDERS[provider]


def _check_available(onnxruntime: Any, provider: Provider) -> None:
    available = onnxruntime.get_available_providers()
    if provider.ort_name in available:
        return
    installed = installed_runtimes()
    if len(installed) > 1 and provider.name != "cpu":
        raise BackendError(
            f'The provider "{provider.name}" is hidden.',
            f"{listed(installed)} are both installed and overwrite each other's files; "
            f"what is left has {listed(available)}",
            f"Run `{REINSTALL_GPU}`.",
        )
    raise BackendError(
        f'The provider "{provider.name}" is not available.',
        f"The installed ONNX Runtime {onnxruntime.__version__} has {listed(available)}.",
        provider.install,
    )


def _plugin_devices(onnxruntime: Any, provider: Provider) -> list[Any]:
    """GPUs of the TensorRT-RTX plugin package; none if the package is not installed.

    The plugin is registered once per process, and stays: unregistering needs every session closed.
    """
    try:
        plugin = importlib.import_module(RTX_PLUGIN)
    except ImportError:
        return []
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        raise BackendError(
            'The provider "tensorrt-rtx" can not be registered.',
            f"ONNX Runtime {onnxruntime.__version__} is too old for provider packages",
            "Run `pip install --upgrade 'onnxruntime>=1.24'`.",
        )
    with _registration:
        devices = _devices_of(onnxruntime, provider)
        if not devices:
            try:
                onnxruntime.register_execution_provider_library(
                    plugin.get_ep_name(), plugin.get_library_path()
                )
            except Exception as error:  # ONNX Runtime's exceptions have no common public base
                advice = explain(error)
                raise BackendError(
                    'The provider "tensorrt-rtx" did not start.', advice.why, advice.fix or provider.install
                ) from error
            devices = _devices_of(onnxruntime, provider)
    if not devices:
        raise BackendError(
            'The provider "tensorrt-rtx" found no GPU.',
            "It runs on NVIDIA RTX GPUs from Ampere (RTX 30) on",
            "`agesdk doctor` shows the GPU and the driver. Or use provider='cpu'.",
        )
    return devices


def _devices_of(onnxruntime: Any, provider: Provider) -> list[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider.ort_name]


def _preload_cuda(onnxruntime: Any) -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, if they are installed; what is missing is found later."""
    if hasattr(onnxruntime, "preload_dlls"):
        # It prints what it does not find, though the system's library path may have it.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def _not_opened(onnxruntime: Any, provider: Provider, component: Component, error: Exception) -> BackendError:
    advice = explain(why_not_loaded(onnxruntime, provider.ort_name) or error)
    return BackendError(
        f'The component "{component.name}" could not be opened on {provider.name}.',
        advice.why,
        advice.fix or (provider.install if provider.memory is not None else ""),
    )


def _check_started(onnxruntime: Any, session: Any, provider: Provider, component: Component) -> None:
    used = session.get_providers()
    if used and used[0] == provider.ort_name:
        return
    reason = why_not_loaded(onnxruntime, provider.ort_name)
    advice = explain(reason) if reason else None
    raise BackendError(
        f'The provider "{provider.name}" did not start for the component "{component.name}".',
        advice.why if advice else f"ONNX Runtime fell back to {listed(used)}.",
        (advice.fix if advice else "") or provider.install,
    )


def _check_assignment(session: Any, provider: Provider, component: Component) -> None:
    if provider.name != "cuda" or not hasattr(session, "get_provider_graph_assignment_info"):
        return
    strays = fallback_operators(session.get_provider_graph_assignment_info(), provider.ort_name)
    if strays:
        raise BackendError(
            f'Not all of the component "{component.name}" would run on {provider.name}.',
            f"ONNX Runtime put {listed(strays)} on the CPU",
            "Use a bundle of another precision, another provider, or another version of onnxruntime-gpu.",
        )


def fallback_operators(assignment: Sequence[Any], ort_provider: str) -> list[str]:
    """Operators that another provider than the wanted one runs, without those that compute shapes.

    ``assignment`` is what ``InferenceSession.get_provider_graph_assignment_info`` returns.
    """
    return sorted(
        {
            node.op_type
            for subgraph in assignment
            if subgraph.ep_name != ort_provider
            for node in subgraph.get_nodes()
            if node.op_type not in _SHAPE_OPERATORS
        }
    )
