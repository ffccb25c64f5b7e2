"""How much memory a build needs, and how much there is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from agesdk.errors import AgeSDKError

PER_WEIGHT_BYTE = 3.8
"""Peak memory of a compilation by bytes of weights: 3.2 was seen at Stable Diffusion 1.5's size in float32,
3.75 at SDXL's in float16."""

BASE = 500 * 10**6
"""What a compilation needs beside: the libraries take 0.3 GB."""


class OutOfMemory(AgeSDKError):
    """A build does not fit into memory."""


def estimate(weights: int) -> int:
    """Bytes of memory that compiling a graph with so many bytes of weights takes at its peak."""
    return BASE + int(PER_WEIGHT_BYTE * weights)


def available() -> int | None:
    """Bytes that can be used without swapping, the container's limit included; None where unknown."""
    if sys.platform == "win32":
        return _windows_available()
    free = _linux_available(Path("/proc/meminfo"))
    limits = [limit for limit in (_cgroup_available(Path("/sys/fs/cgroup")), free) if limit is not None]
    return min(limits) if limits else None


def check_fits(weights: Sequence[int], workers: int, free: int | None, force: bool) -> int:
    """The estimate of a build of several components, the largest `workers` of them at once.

    Raises
    ------
    OutOfMemory
        It is more than there is, and not `force`.
    """
    needed = sum(estimate(size) for size in sorted(weights, reverse=True)[:workers])
    if free is not None and needed > free and not force:
        advice = "Close other programs, use a machine with more memory, or give --force to try"
        if workers > 1:
            advice = f"Give fewer --workers; or: {advice[0].lower()}{advice[1:]}"
        raise OutOfMemory(
            f"The build needs about {needed / 1e9:.1f} GB of memory", f"{free / 1e9:.1f} GB are free", advice
        )
    return needed


def _linux_available(path: Path) -> int | None:
    try:
        for line in path.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cgroup_available(folder: Path) -> int | None:
    """What the container may still take: version 2, then version 1; page cache counts as free."""
    for limit, used, statistics, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            most = int((folder / limit).read_text())
            taken = int((folder / used).read_text())
            lines = dict(line.split() for line in (folder / statistics).read_text().splitlines())
            return max(0, most - taken + int(lines.get(cache, 0)))
        except (OSError, ValueError):
            continue  # "max" is no number: there is no limit
    return None


def _windows_available() -> int | None:
    if sys.platform != "win32":
        return None
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *(
                (name, ctypes.c_ulonglong)
                for name in (
                    "total",
                    "available",
                    "page_total",
                    "page",
                    "virtual_total",
                    "virtual",
                    "extended",
                )
            ),
        )

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return int(status.available)


def peak() -> int | None:
    """The most bytes of memory this process has held; None where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "VmHWM":
                return int(rest.split()[0]) * 1024
    except OSError:
        pass
    return None
