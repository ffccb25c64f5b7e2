"""Compiling in a process of its own.

TensorRT keeps memory until its process ends, and the system kills a process that takes too much: in a child,
neither reaches the next component or the command line. A child whose parent is gone ends itself.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection

from agesdk.errors import AgeSDKError

from .compile import Compiled, CompileJob, compile_component
from .memory import OutOfMemory
from .progress import Report


class WorkerFailed(AgeSDKError):
    """The process of a build ended without a result."""


def run_job(job: CompileJob, report: Report, cancelled: threading.Event) -> Compiled:
    """Compile in a child process, which is ended when `cancelled` is set.

    Raises
    ------
    OutOfMemory
        The system killed the child.
    AgeSDKError
        What `compile_component` raises.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    level = logging.getLogger("engines").getEffectiveLevel()
    process = context.Process(target=_child, args=(job, there, level), daemon=True)
    process.start()
    there.close()
    latest: tuple[str, float] = ("", 0.0)
    try:
        while not cancelled.is_set():
            if not here.poll(0.2):
                report(*latest)  # TensorRT is silent for minutes: the clock goes on
                continue
            message = here.recv()
            if isinstance(message, tuple):
                latest = message
                report(*latest)
            elif isinstance(message, AgeSDKError):
                raise message
            else:
                assert isinstance(message, Compiled)
                return message
    except EOFError:
        process.join()
        raise _death(job, process.exitcode) from None
    finally:
        process.kill()
        process.join()
        here.close()
    raise WorkerFailed(f"The build of {job.title} was cancelled")


def _death(job: CompileJob, code: int | None) -> AgeSDKError:
    if code == -getattr(signal, "SIGKILL", 9):
        return OutOfMemory(
            f"The process that compiled {job.title} was killed",
            "most likely by the system, because the memory was not enough",
            "Build one --component at a time on a machine with more memory",
        )
    return WorkerFailed(
        f"The process that compiled {job.title} ended",
        f"its exit status is {code}",
        "Run with --verbose; if it stays, report the component and this status",
    )


def _child(job: CompileJob, parent: Connection, log_level: int) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("agesdk").setLevel(log_level)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    sending = threading.Lock()

    def report(phase: str, fraction: float) -> None:
        with sending:
            parent.send((phase, fraction))

    result: Compiled | AgeSDKError
    try:
        result = compile_component(job, report)
    except AgeSDKError as error:
        result = error
    with sending:
        parent.send(result)


def _end_with(parent: Connection) -> None:
    """End this process as soon as the other end of the pipe is closed; nothing else is ever sent there."""
    try:
        parent.recv()
    except (EOFError, OSError):
        os._exit(1)
