"""Which precision of each component runs, and what happens when a reduced one fails.

A bundle may carry a component in several precisions (`agesdk.manifest.Variant`). `choose` picks one for each;
`EngineSet` opens them, and where a component's result is not finite it opens its fp32 graph and runs that
instead, or says that the bundle carries none.
"""

from __future__ import annotations

import importlib
import logging
import platform
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from agesdk.backends.base import Engine, did_you_mean, listed
from agesdk.bundle import Bundle
from agesdk.errors import BackendError, BundleError, UsageError

PRECISIONS = ("auto", "fp32", "fp16", "int8")

Load = Callable[[Bundle, str], Engine]
"""Opens a component of a bundle."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


def choose(
    bundle: Bundle,
    precision: str,
    backend: str,
    provider: str | None = None,
    names: Sequence[str] | None = None,
) -> Bundle:
    """The bundle with its components in the precision that shall run.

    Parameters
    ----------
    precision:
        ``auto`` takes the variants that the bundle prefers on this kind of device: those for CPUs only if the
        processor has 8-bit dot products. Any other takes that precision of every component that has it, and
        the component's own of the rest.

    backend, provider:
        See `agesdk.backends.load_engine`.
    names:
        The components that are chosen for, the others stay; None: all.

    Raises
    ------
    UsageError
        No such precision.
    BundleError
        No component has it; or, for fp32, one lacks it; or the bundle has no such component.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f'The precision "{precision}" is unknown.',
            f"There are {listed(PRECISIONS)}.",
            did_you_mean(precision, PRECISIONS),
        )
    components = {name: bundle.component(name) for name in names or bundle.manifest.components}
    if precision == "auto":
        on_cpu = backend == "onnxruntime" and provider in (None, "cpu")
        device = "cpu" if on_cpu else "gpu"
        if on_cpu and not has_int8_dot_products():
            return bundle
        preferred = {
            name: next((key for key, v in component.variants.items() if v.preferred_on == device), None)
            for name, component in components.items()
        }
        return bundle.at({name: key for name, key in preferred.items() if key is not None})
    have = [name for name, component in components.items() if precision in component.precisions]
    if not have or (precision == "fp32" and len(have) < len(components)):
        lacking = next(component for name, component in components.items() if name not in have)
        return bundle.at({lacking.name: precision})  # raises, with the precisions there are
    return bundle.at(dict.fromkeys(have, precision))


def has_int8_dot_products() -> bool:
    """Whether the processor multiplies and sums 8-bit integers in one instruction (AVX-512 VNNI, AMX, Arm's
    dot product): without it int8 graphs are slow, and on x86 their products may saturate.
    """
    if platform.machine() == "arm64" and platform.system() == "Darwin":
        return True
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split())
    except OSError:
        flags = set()
    if flags & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}:
        return True
    core = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"
    features = importlib.import_module(f"{core}._multiarray_umath").__cpu_features__
    return any(features.get(name, False) for name in ("AVX512VNNI", "AVX512_CLX", "ASIMDDP"))


class EngineSet:
    """The engines of a bundle, opened when they are first used.

    Attributes
    ----------
    bundle:
        The bundle, with each component in the precision that runs.
    """

    def __init__(self, bundle: Bundle, load: Load) -> None:
        self.bundle = bundle
        self._load = load
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Engine:
        """A component, opened now if it is not."""
        with self._lock:
            if name not in self._engines:
                self._engines[name] = self._load(self.bundle, name)
            return self._engines[name]

    def release(self, *names: str) -> None:
        """Let components leave memory; they are opened again when they are needed."""
        with self._lock:
            for name in names:
                self._engines.pop(name, None)

    def precisions(self) -> dict[str, str]:
        """The precision that each component runs in."""
        return {name: component.precision for name, component in self.bundle.manifest.components.items()}

    def checked(self, name: str, call: Callable[[Engine], _T], is_sound: Callable[[_T], bool]) -> _T:
        """``call`` with a component; once more in fp32 if the result is not sound.

        The component then stays in fp32.

        Raises
        ------
        BackendError
            The result is not sound and the bundle has no fp32 graph of the component, or that fails too.
        """
        result = call(self[name])
        if is_sound(result):
            return result
        precision = self.bundle.component(name).precision
        what = f'The component "{name}" gave a result that is not finite in {precision}'
        if precision == "fp32":
            raise BackendError(what, "the weights, an input or the device is broken", _VERIFY)
        try:
            exact = self.bundle.at({name: "fp32"})
        except BundleError:
            raise BackendError(
                what,
                "it overflows, and the bundle does not carry the component in fp32",
                f"Export the bundle with --keep-fp32 {name}, or run it with precision='fp32'",
            ) from None
        _log.warning("%s; it runs in fp32 from here on", what)
        with self._lock:
            self.bundle = exact
            self._engines.pop(name, None)
        result = call(self[name])
        if not is_sound(result):
            raise BackendError(
                f'The component "{name}" gave a result that is not finite in fp32', "", _VERIFY
            )
        return result

    def decoded(self, call: Callable[[Engine], _T]) -> _T:
        """`checked` for ``vae_decoder``: uint8 [B, H, W, 3], where NaN shows as a picture of one colour.

        In fp32 such a picture is taken for what it is.
        """

        def is_sound(made: _T) -> bool:
            if self.bundle.component("vae_decoder").precision == "fp32":
                return True
            images = self["vae_decoder"].to_host(made)
            lowest, highest = images.min(axis=(1, 2)), images.max(axis=(1, 2))
            return bool((highest > lowest).any(axis=1).all())

        return self.checked("vae_decoder", call, is_sound)


_VERIFY = "Check the bundle on this device: python -m engines verify BUNDLE"


def all_finite(*arrays: np.ndarray) -> bool:
    """Whether no value is NaN or infinite."""
    return all(bool(np.isfinite(array).all()) for array in arrays)
