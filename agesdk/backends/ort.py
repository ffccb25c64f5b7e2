"""ONNX Runtime as a backend: on the CPU as the default, on NVIDIA GPUs through its execution providers.

ONNX Runtime falls back to the CPU without an error when a provider fails to load, and lists the providers it
was compiled with, not those that work. Here the providers of the created session are compared with the one
asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from agesdk.backends.base import Tensor, check_feeds, did_you_mean, format_shape, listed
from agesdk.bundle import Bundle
from agesdk.errors import BackendError

logger = logging.getLogger(__name__)

_INSTALL_GPU = (
    "Install `onnxruntime-gpu` in an environment without `onnxruntime` (having both hides the GPU one), "
    "with the CUDA and cuDNN versions its release notes name"
)
PROVIDERS: dict[str, tuple[str, str]] = {
    "cpu": ("CPUExecutionProvider", "Install `onnxruntime`."),
    "cuda": ("CUDAExecutionProvider", f"{_INSTALL_GPU}; or use provider='cpu'."),
    "tensorrt": (
        "TensorrtExecutionProvider",
        f"{_INSTALL_GPU}, and the TensorRT libraries; or use provider='cpu'.",
    ),
    "tensorrt-rtx": (
        "NvTensorRTRTXExecutionProvider",
        (
            "Install an ONNX Runtime built with the TensorRT-RTX provider and the TensorRT-RTX libraries; "
            "or use provider='cpu'."
        ),
    ),
}
"""Provider name -> (ONNX Runtime's name, what to install)."""

_NUMPY_OF_ORT = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class OrtEngine:
    """One component in an ONNX Runtime session; see `agesdk.backends.load_engine` for the parameters.

    On the CPU, tensors are numpy arrays. On a GPU, outputs are `onnxruntime.OrtValue` on the device.
    """

    def __init__(
        self, bundle: Bundle, component: str, provider: str = "cpu", threads: int | None = None
    ) -> None:
        self._component = bundle.component(component)
        self.name = component
        self.provider = provider
        self.inputs = self._component.inputs
        self.outputs = self._component.outputs
        self.profile = self._component.profile
        self._output_names = [spec.name for spec in self.outputs]
        self._device = "cpu" if provider == "cpu" else "cuda"
        self._on_host = provider == "cpu"
        self._ort = _import_onnxruntime()
        provider_name, install = _available_provider(self._ort, provider)
        self._session = self._open(str(bundle.component_path(component)), provider_name, install, threads)
        self._check_session()

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_feeds(self._component, {name: _describe(tensor) for name, tensor in feeds.items()})
        try:
            if self._on_host:
                results = self._session.run(self._output_names, dict(feeds))
            else:
                results = self._run_on_device(feeds)
        except Exception as error:  # ONNX Runtime's exceptions have no common public base
            raise BackendError(
                f'Running the component "{self.name}" on {self.provider} failed.', str(error)
            ) from error
        return dict(zip(self._output_names, results, strict=True))

    def to_host(self, tensor: Tensor) -> np.ndarray:
        return tensor if isinstance(tensor, np.ndarray) else tensor.numpy()

    def _run_on_device(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        binding = self._session.io_binding()
        for name, tensor in feeds.items():
            if isinstance(tensor, np.ndarray):
                tensor = self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor), self._device, 0)
            binding.bind_ortvalue_input(name, tensor)
        for name in self._output_names:
            binding.bind_output(name, self._device, 0)
        self._session.run_with_iobinding(binding)
        return list(binding.get_outputs())

    def _open(self, path: str, provider_name: str, install: str, threads: int | None) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        # Several sessions take turns: idle threads of one must not spin on the cores another needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        providers = [provider_name] if self._on_host else [provider_name, "CPUExecutionProvider"]
        try:
            session = self._ort.InferenceSession(path, options, providers=providers)
        except Exception as error:
            raise BackendError(
                f'The component "{self.name}" could not be opened on {self.provider}.', str(error), install
            ) from error
        used = session.get_providers()
        if not used or used[0] != provider_name:
            raise BackendError(
                f'The provider "{self.provider}" did not start for the component "{self.name}".',
                f"ONNX Runtime fell back to {listed(used)}.",
                install,
            )
        session.disable_fallback()
        logger.debug("opened %s on %s", path, used)
        return session

    def _check_session(self) -> None:
        """The graph's inputs and outputs must be those the manifest states (symbols may differ in name)."""
        for kind, specs, nodes in (
            ("inputs", self.inputs, self._session.get_inputs()),
            ("outputs", self.outputs, self._session.get_outputs()),
        ):
            graph = {node.name: (_NUMPY_OF_ORT.get(node.type, node.type), node.shape) for node in nodes}
            if set(graph) != {spec.name for spec in specs}:
                raise BackendError(
                    f'The {kind} of the graph of "{self.name}" are {listed(graph)}.',
                    f"The manifest states {listed(spec.name for spec in specs)}.",
                    "Export the bundle again.",
                )
            for spec in specs:
                dtype, shape = graph[spec.name]
                same_shape = len(shape) == len(spec.shape) and all(
                    size == wanted or not isinstance(size, int)
                    for size, wanted in zip(shape, spec.shape, strict=True)
                )
                if dtype != spec.dtype or not same_shape:
                    raise BackendError(
                        f'"{spec.name}" in the graph of "{self.name}" is {dtype} {format_shape(shape)}.',
                        f"The manifest states {spec.dtype} {format_shape(spec.shape)}.",
                        "Export the bundle again.",
                    )


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            "ONNX Runtime is not installed.", str(error), "Run `pip install onnxruntime`."
        ) from error
    return onnxruntime


def _available_provider(onnxruntime: Any, provider: str) -> tuple[str, str]:
    if provider not in PROVIDERS:
        raise BackendError(
            f'The provider "{provider}" is unknown.',
            f"ONNX Runtime is used with {listed(PROVIDERS)}.",
            did_you_mean(provider, list(PROVIDERS)),
        )
    name, install = PROVIDERS[provider]
    available = onnxruntime.get_available_providers()
    if name not in available:
        raise BackendError(
            f'The provider "{provider}" is not available.',
            f"The installed ONNX Runtime {onnxruntime.__version__} has {listed(available)}.",
            install,
        )
    return name, install


def _describe(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    if isinstance(tensor, np.ndarray):
        return tensor.dtype.name, tensor.shape
    if hasattr(tensor, "data_type"):
        return _NUMPY_OF_ORT.get(tensor.data_type(), tensor.data_type()), tuple(tensor.shape())
    raise BackendError(
        f"A feed is a {type(tensor).__name__}.", "Feeds are numpy arrays or this backend's tensors."
    )
