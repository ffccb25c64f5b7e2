"""The acceptance test that a bundle carries: every component's recorded input, and what it must give for it.

`golden/<component>.npz` was recorded from the model the bundle was exported from; the manifest says how much
a component may differ from it in each of its precisions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from agesdk.backends.base import Engine
from agesdk.bundle import Bundle, Tolerance
from agesdk.errors import BundleError


@dataclass(frozen=True)
class Limits:
    """What may differ where nothing was measured: float outputs relative to the largest recorded value, at
    most and on average; pictures in grey levels of 255."""

    relative: float
    mean_relative: float
    levels: int
    mean_levels: float

    def tolerance(self, recorded: np.ndarray) -> Tolerance:
        """The limits for one output, in its own unit."""
        if recorded.dtype == np.uint8:
            return Tolerance(self.levels, self.mean_levels)
        largest = float(np.abs(recorded).max(initial=0.0))
        return Tolerance(self.relative * largest, self.mean_relative * largest)


LIMITS: dict[str, Limits] = {
    "fp32": Limits(relative=1e-4, mean_relative=2e-5, levels=1, mean_levels=0.01),
    "fp16": Limits(relative=2e-2, mean_relative=4e-3, levels=8, mean_levels=0.5),
    "bf16": Limits(relative=1e-1, mean_relative=2e-2, levels=32, mean_levels=2.0),
    "int8": Limits(relative=2e-1, mean_relative=4e-2, levels=32, mean_levels=2.0),
}
"""Per precision. float32 differs by the order of sums only; a grey level flips where a value lies on the
rounding edge. float16 carries 11 bits, of which a network of a hundred layers keeps six or more."""


@dataclass(frozen=True)
class GoldenCheck:
    """How one output differs from its golden; ``max_abs`` and ``mean_abs`` as in `Tolerance`, infinite where
    the output is not finite or has another shape or dtype."""

    component: str
    precision: str
    output: str
    max_abs: float
    mean_abs: float
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        return self.max_abs <= self.tolerance.max_abs and self.mean_abs <= self.tolerance.mean_abs


def check_bundle(
    bundle: Bundle,
    load: Callable[[Bundle, str], Engine],
    every_precision: bool = True,
    without: Collection[str] = (),
) -> list[GoldenCheck]:
    """Run the golden of every component of a bundle.

    Parameters
    ----------
    load:
        Opens a component of a bundle; each is forgotten before the next is opened.
    every_precision:
        In every precision that the bundle carries; else only in the components' own.
    without:
        Precisions that are left out of every one.

    Raises
    ------
    BundleError
        A component has no golden.
    BackendError
        A component does not open or run.
    """
    checks = []
    for name, component in bundle.manifest.components.items():
        for precision in component.precisions if every_precision else (component.precision,):
            if every_precision and precision in without:
                continue
            view = bundle.at({name: precision})
            checks += check_component(view, name, load(view, name))
    return checks


def check_component(bundle: Bundle, name: str, engine: Engine) -> list[GoldenCheck]:
    """Run one component's golden; see `check_bundle`."""
    component = bundle.component(name)
    golden = bundle.golden(name)
    try:
        feeds = {spec.name: golden[f"input.{spec.name}"] for spec in component.inputs}
        recorded = {spec.name: golden[f"output.{spec.name}"] for spec in component.outputs}
    except KeyError as error:
        raise BundleError(f'The golden of "{name}" lacks {error}', "", "Export the bundle again") from None
    outputs = engine.run(feeds)
    checks = []
    for output, expected in recorded.items():
        max_abs, mean_abs = difference(expected, engine.to_host(outputs[output]))
        tolerance = component.tolerances.get(output) or LIMITS[component.precision].tolerance(expected)
        checks.append(GoldenCheck(name, component.precision, output, max_abs, mean_abs, tolerance))
    return checks


def difference(expected: np.ndarray, got: np.ndarray) -> tuple[float, float]:
    """The largest and the mean absolute difference; infinite for another shape or dtype, or where one is not
    finite."""
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return np.inf, np.inf
    error = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    if not np.isfinite(error).all():
        return np.inf, np.inf
    return float(error.max(initial=0.0)), float(error.mean()) if error.size else 0.0
