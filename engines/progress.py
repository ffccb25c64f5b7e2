"""How far a build is: TensorRT's nested phases as one fraction, the time left, and a line that shows both."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

Report = Callable[[str, float], None]
"""Takes the innermost phase and the fraction done, 0..1."""


@dataclass
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0


class PhaseTracker:
    """The phases that TensorRT's progress monitor reports, possibly from several threads."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[name] = _Phase(name, parent, max(1, steps))

    def step(self, name: str, step: int) -> None:
        """Step `step`, counted from 0, is done."""
        with self._lock:
            if name in self._phases:
                phase = self._phases[name]
                phase.done = min(step + 1, phase.steps)

    def finish(self, name: str) -> None:
        with self._lock:
            self._phases.pop(name, None)

    def state(self) -> tuple[str, float]:
        """The phase that was entered last, and the fraction done of the outermost."""
        with self._lock:
            if not self._phases:
                return "", 0.0
            root = next(iter(self._phases.values()))
            return next(reversed(self._phases)), self._fraction(root)

    def _fraction(self, phase: _Phase) -> float:
        inner = [self._fraction(child) for child in self._phases.values() if child.parent == phase.name]
        return min(1.0, (phase.done + (max(inner) if inner else 0.0)) / phase.steps)


def monitor(base: Any, tracker: PhaseTracker, report: Report) -> Any:
    """An instance of the library's ``IProgressMonitor`` that reports at most ten times a second."""
    last = 0.0

    def tell() -> None:
        nonlocal last
        if time.monotonic() - last >= 0.1:
            last = time.monotonic()
            report(*tracker.state())

    class Monitor(base):
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tracker.start(phase_name, parent_phase, num_steps)
            tell()

        def step_complete(self, phase_name: str, step: int) -> bool:
            tracker.step(phase_name, step)
            tell()
            return True

        def phase_finish(self, phase_name: str) -> None:
            tracker.finish(phase_name)

    return Monitor()


def seconds_left(elapsed: float, fraction: float, expected: float | None) -> float | None:
    """The time left of a build.

    Parameters
    ----------
    expected:
        Seconds it took before, or is expected to take. Ahead of time nearly all of a build is one step of
        TensorRT, so its phases alone say little.
    """
    if expected is not None:
        return max(0.0, expected - elapsed)
    if fraction < 0.05:
        return None
    return elapsed * (1.0 - fraction) / fraction


class ProgressLine:
    """One line on a terminal, written over and over; nothing where the output is no terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._shown = self._stream.isatty()
        self._lock = threading.Lock()

    def show(self, title: str, phase: str, elapsed: float, left: float | None) -> None:
        if not self._shown:
            return
        text = f"{title}: {elapsed:.0f} s"
        if left is not None:
            text += f", about {left:.0f} s left" if left > 0 else ", longer than expected"
        if phase:
            text += f" ({phase})"
        with self._lock:
            self._stream.write(f"\r\033[K{text[:110]}")
            self._stream.flush()

    def clear(self) -> None:
        if self._shown:
            with self._lock:
                self._stream.write("\r\033[K")
                self._stream.flush()
