"""A lock between processes that no crash can leave behind.

The operating system holds the lock for an open file and drops it when the process ends, however it ends, so a
dead holder needs no detection. What stands in the file only tells people who holds it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

from agesdk.errors import OutputError

_POLL_SECONDS = 0.1
# Windows locks bytes against reading too; one far behind the text leaves the text readable.
_LOCKED_BYTE = 2**30


@contextlib.contextmanager
def file_lock(
    path: Path, timeout: float | None = None, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock of `path`, a file that is made if need be and never removed.

    Parameters
    ----------
    timeout:
        Seconds to wait for another holder; None waits for as long as it takes.
    on_wait:
        Called once with a description of the holder, before waiting.

    Raises
    ------
    OutputError
        The file can not be made, or the time is over.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as error:
        raise OutputError(f"The lock {path} can not be opened", error.strerror or str(error)) from None
    try:
        _wait(descriptor, path, timeout, on_wait)
        _describe_holder(descriptor)
        try:
            yield
        finally:
            _unlock(descriptor)
    finally:
        os.close(descriptor)


def _wait(descriptor: int, path: Path, timeout: float | None, on_wait: Callable[[str], None] | None) -> None:
    deadline = None if timeout is None else time.monotonic() + timeout
    told = False
    while not _try_lock(descriptor):
        if not told and on_wait is not None:
            on_wait(_holder(path))
        told = True
        if deadline is not None and time.monotonic() >= deadline:
            raise OutputError(
                f"The lock {path} was not free within {timeout:g} seconds",
                f"{_holder(path)} holds it",
                "Wait for it, or end it",
            )
        time.sleep(_POLL_SECONDS)


def _describe_holder(descriptor: int) -> None:
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "since": since}).encode()
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text)
    os.ftruncate(descriptor, len(text))


def _holder(path: Path) -> str:
    """A description of who wrote the file last; a holder may not have come to writing it yet."""
    try:
        holder = json.loads(path.read_bytes())
        return f"process {int(holder['pid'])}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
