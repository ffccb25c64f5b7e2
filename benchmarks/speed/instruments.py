"""Networks told apart from the rest: engines that take the time of each of their runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from agesdk.backends import Engine, load_engine
from agesdk.backends.base import Tensor
from agesdk.bundle import Bundle, embedded_bundle
from agesdk.faces.analyzer import FaceAnalyzer
from agesdk.lifespan_aging import LifespanAger
from agesdk.lifespan_model import LifespanModel
from agesdk.timing import Stage, Stopwatch
from agesdk.zone_aging import ZoneAger
from agesdk.zone_model import ZoneModel


class Instruments:
    """Opens engines whose runs are stages of one stopwatch, named after the component.

    Attributes
    ----------
    load_seconds:
        By component, how long it took to open.
    rows:
        By component, the rows of every batch since `laps` was called.
    processor_seconds:
        Of all runs since `laps` was called.
    """

    def __init__(
        self, backend: str, provider: str | None, threads: int | None, largest_batch: int | None = None
    ) -> None:
        self._options: dict[str, Any] = {"backend": backend, "provider": provider, "threads": threads}
        self._largest_batch = largest_batch
        self.load_seconds: dict[str, float] = {}
        self.rows: dict[str, list[int]] = {}
        self.processor_seconds = 0.0
        self._watch = Stopwatch()

    def load(self, bundle: Bundle, component: str) -> Engine:
        """As `agesdk.backends.load_engine`."""
        watch = Stopwatch()
        engine = load_engine(bundle, component, **self._options)
        self.load_seconds[component] = watch.timings().total
        return _TimedEngine(engine, self, self._largest_batch)

    def zone_ager(self, bundle: Bundle) -> ZoneAger:
        """A `ZoneAger` over such engines, in the precisions that the bundle stands at."""
        return ZoneAger(ZoneModel(bundle, self.load), self._analyzer)

    def lifespan_ager(self, bundle: Bundle) -> LifespanAger:
        """A `LifespanAger` over such engines, in the precisions that the bundle stands at."""
        return LifespanAger(LifespanModel(bundle, self.load), self._analyzer)

    def laps(self) -> dict[str, Stage]:
        """The runs since the last call, by component."""
        stages = self._watch.timings().stages
        self._watch = Stopwatch()
        self.rows = {}
        self.processor_seconds = 0.0
        return stages

    def timed(self, engine: Engine, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run an engine."""
        first = feeds[engine.inputs[0].name]
        rows = int(first.shape[0] if isinstance(first, np.ndarray) else first.shape()[0])
        self.rows.setdefault(engine.name, []).append(rows)
        begin = time.process_time()
        with self._watch.stage(engine.name):
            outputs = engine.run(feeds)
        self.processor_seconds += time.process_time() - begin
        return outputs

    def _analyzer(self) -> FaceAnalyzer:
        bundle = Bundle.open(embedded_bundle("face-analysis"), kind="face-analysis")
        return FaceAnalyzer.from_engines(bundle, self.load)


class _TimedEngine:
    """An engine that takes the time of its runs, and takes no larger batch than it is told."""

    def __init__(self, engine: Engine, instruments: Instruments, largest_batch: int | None) -> None:
        self._engine, self._instruments = engine, instruments
        self.name, self.profile = engine.name, dict(engine.profile)
        if largest_batch is not None and "batch" in self.profile:
            low, best, high = self.profile["batch"]
            high = max(low, min(high, largest_batch))
            self.profile["batch"] = (low, min(best, high), high)
        self.inputs, self.outputs = engine.inputs, engine.outputs

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._instruments.timed(self._engine, feeds)

    def to_device(self, array: np.ndarray) -> Tensor:
        return self._engine.to_device(array)

    def to_host(self, tensor: Tensor) -> np.ndarray:
        return self._engine.to_host(tensor)

    def guide(self, halves: Tensor, scale: float) -> Tensor:
        return self._engine.guide(halves, scale)
