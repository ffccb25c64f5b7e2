"""How long each stage of a run took; every result carries it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """The wall-clock seconds of every time a stage ran."""

    laps: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Of all laps together."""
        return sum(self.laps)

    @property
    def count(self) -> int:
        """How often the stage ran."""
        return len(self.laps)


@dataclass(frozen=True)
class StageTimings:
    """Laps by stage, in the order in which the stages first ran, and the total wall-clock time.

    Stages may be nested, so their sum may exceed ``total``.
    """

    stages: dict[str, Stage] = field(default_factory=dict)
    total: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Seconds by stage, and ``total``; for JSON."""
        return {**{name: stage.seconds for name, stage in self.stages.items()}, "total": self.total}

    def __str__(self) -> str:
        parts = [
            f"{name} {stage.seconds:.3f} s" + (f" ({stage.count}x)" if stage.count > 1 else "")
            for name, stage in self.stages.items()
        ]
        return ", ".join([*parts, f"total {self.total:.3f} s"])


class Stopwatch:
    """Measures stages::

    watch = Stopwatch()
    with watch.stage("vae_encoder"):
        ...
    watch.timings().as_dict()
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._laps: dict[str, list[float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the duration of the block to the stage, also when it raises."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._laps.setdefault(name, []).append(time.perf_counter() - begin)

    def timings(self) -> StageTimings:
        """What was measured so far; ``total`` runs from the construction."""
        stages = {name: Stage(tuple(laps)) for name, laps in self._laps.items()}
        return StageTimings(stages, time.perf_counter() - self._start)
