"""What a process holds, and what the machine has left."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
from pathlib import Path

from agesdk.doctor.host import Host
from agesdk.doctor.system import memory
from agesdk.errors import UsageError

_STATUS = Path("/proc/self/status")


def peak() -> int:
    """The largest resident set of this process in bytes.

    Linux counts it anew after exec here; ``getrusage`` would also count what the parent held when it started
    this process.
    """
    found = _status("VmHWM")
    if found is not None:
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Let `peak` count from here on, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")


def resident() -> int:
    """The resident set of this process in bytes; where the system does not tell it, the peak."""
    found = _status("VmRSS")
    return peak() if found is None else found


def gpu_used() -> int | None:
    """Memory in use on the GPUs in bytes, by all processes; None where there are none."""
    done = Host().run("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
    if done is None or done.code != 0:
        return None
    return sum(int(line) * 2**20 for line in done.stdout.split() if line.isdigit())


def check_fits(needed: float, what: str) -> None:
    """Raise `UsageError` where less memory is free than ``needed`` bytes."""
    free = memory(Host())[1]
    if free is not None and needed > free:
        raise UsageError(
            f"{what} needs about {needed / 1e9:.1f} GB of memory",
            f"{free / 1e9:.1f} GB are free",
            "Take a smaller --size, close other programs, or use a machine with more memory",
        )


def limit_threads(threads: int) -> None:
    """Bind the thread pools of numerical libraries that are imported later to a number of threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)


def _status(key: str) -> int | None:
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB$", _STATUS.read_text("ascii", "replace"), re.M)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None
