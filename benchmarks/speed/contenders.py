"""Contenders: each in a process of its own, asked to do the same work in turn.

What a contender holds in memory and imports is its own; while one runs, the others wait.
"""

from __future__ import annotations

import importlib
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from agesdk.errors import AgeSDKError, UsageError
from benchmarks.speed import memory
from benchmarks.speed.record import Recorder


class Work(Protocol):
    """What a contender's factory returns: a call that does the whole job once."""

    def __call__(self) -> np.ndarray:
        """The pictures made, uint8 [N, H, W, 3]."""
        ...


@dataclass(frozen=True)
class Contender:
    """A name, and ``module:function`` whose result for the arguments is a `Work`."""

    name: str
    factory: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Lap:
    """One run: wall-clock and processor seconds."""

    seconds: float
    processor_seconds: float


class Process:
    """A contender's process; a context manager that ends it.

    Raises `UsageError` with the contender's own words where it can not do its work.
    """

    def __init__(self, contender: Contender, threads: int) -> None:
        self.name = contender.name
        context = multiprocessing.get_context("spawn")
        self._connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, contender, threads), daemon=True)
        self._process.start()
        child.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.join(10.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def load_seconds(self) -> float:
        """Imports and loading; to be asked first."""
        return float(self._answer())

    def lap(self) -> Lap:
        """Do the work once."""
        return self._ask("lap")

    def pictures(self) -> np.ndarray:
        """Of the last lap."""
        return self._ask("pictures")

    def peak(self) -> int:
        """The largest resident set so far in bytes."""
        return self._ask("peak")

    def _ended(self) -> UsageError:
        self._process.join(5.0)
        code = self._process.exitcode
        why = "killed, as the system does when memory runs out" if code == -9 else f"exit code {code}"
        return UsageError(f"{self.name} ended early", why)

    def _ask(self, question: str) -> Any:
        try:
            self._connection.send(question)
        except OSError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            good, answer = self._connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if not good:
            raise UsageError(f"{self.name} can not do this", answer)
        return answer


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, AgeSDKError) else f"{type(error).__name__}: {error}"


def race(
    contenders: Sequence[Contender],
    repeat: int,
    threads: int,
    recorder: Recorder,
    on_lap: Callable[[], object],
    labels: Mapping[str, str],
) -> list[np.ndarray]:
    """Run contenders alternately, ``repeat`` times after one lap to warm up, into series ``load``, ``first``,
    ``lap``, ``processor`` and ``peak memory``, with these labels and the contender's name.

    Returns
    -------
    list[numpy.ndarray]
        Every contender's pictures, uint8 [N, H, W, 3].
    """
    with ExitStack() as stack:
        processes = []
        for contender in contenders:  # one after the other: loading two at once would time neither
            process = stack.enter_context(Process(contender, threads))
            recorder.add("load", "s", process.load_seconds(), contender=process.name, **labels)
            processes.append(process)
        for number in range(1 + repeat):
            for process in processes:
                lap = process.lap()
                recorder.add("lap" if number else "first", "s", lap.seconds, contender=process.name, **labels)
                if number:
                    recorder.add("processor", "s", lap.processor_seconds, contender=process.name, **labels)
                on_lap()
        for process in processes:
            recorder.add("peak memory", "B", process.peak(), contender=process.name, **labels)
        return [process.pictures() for process in processes]


def _serve(connection: Connection, contender: Contender, threads: int) -> None:
    """The process's main function: make the work, then do what is asked until the other end closes."""
    memory.limit_threads(threads)
    begin = time.perf_counter()
    try:
        module, _, function = contender.factory.partition(":")
        work: Work = getattr(importlib.import_module(module), function)(**contender.arguments)
    except Exception as error:  # whatever it is, the user must learn it from the contender
        connection.send((False, _said(error)))
        return
    connection.send((True, time.perf_counter() - begin))
    pictures = None
    while True:
        try:
            question = connection.recv()
        except EOFError:
            return
        if question == "peak":
            connection.send((True, memory.peak()))
        elif question == "pictures":
            connection.send((True, pictures))
        else:
            begin, processor = time.perf_counter(), time.process_time()
            try:
                pictures = work()
            except Exception as error:
                connection.send((False, _said(error)))
                return
            lap = Lap(time.perf_counter() - begin, time.process_time() - processor)
            connection.send((True, lap))
