"""Operating system, Python, processor, memory and disk."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from agesdk.cpu import cpu_features
from agesdk.doctor.host import Host


@dataclass(frozen=True)
class SystemInfo:
    """The machine without its GPU; None or "" is what could not be told. Sizes in bytes."""

    system: str
    machine: str
    python: str
    executable: str
    cpu: str
    cores: int
    cpu_features: tuple[str, ...]
    memory_total: int | None
    memory_free: int | None
    disk_folder: str
    disk_free: int | None


def look_at_system(host: Host, folder: Path) -> SystemInfo:
    """Facts about the host; ``folder`` is where disk space is looked for."""
    cpuinfo = host.read("/proc/cpuinfo")
    total, free = memory(host)
    return SystemInfo(
        system=operating_system(host),
        machine=platform.machine(),
        python=platform.python_version(),
        executable=sys.executable,
        cpu=cpu_model(cpuinfo) or platform.processor(),
        cores=os.cpu_count() or 1,
        cpu_features=cpu_features(cpuinfo),
        memory_total=total,
        memory_free=free,
        disk_folder=str(folder),
        disk_free=_disk_free(folder),
    )


def operating_system(host: Host) -> str:
    """``Ubuntu 22.04.5 LTS, Linux 5.15.148-tegra``; WSL is named, since its driver is that of Windows."""
    kernel = f"{platform.system()} {platform.release()}"
    release = host.read("/etc/os-release") or ""
    for line in release.splitlines():
        if line.startswith("PRETTY_NAME="):
            kernel = f"{line.partition('=')[2].strip().strip(chr(34))}, {kernel}"
    version = host.read("/proc/version") or ""
    return f"{kernel} (WSL)" if "microsoft" in version.lower() else kernel


def cpu_model(cpuinfo: str | None) -> str:
    """The processor's name in the text of /proc/cpuinfo, "" if it is not there (64-bit Arm has none)."""
    for line in (cpuinfo or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return ""


def memory(host: Host) -> tuple[int | None, int | None]:
    """Total and available memory in bytes."""
    text = host.read("/proc/meminfo")
    if text is None:
        return _windows_memory() if os.name == "nt" else (None, None)
    sizes = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        number = value.split()
        if number and number[0].isdigit():
            sizes[key] = int(number[0]) * 1024
    return sizes.get("MemTotal"), sizes.get("MemAvailable")


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("page_total", ctypes.c_ulonglong),
        ("page_free", ctypes.c_ulonglong),
        ("virtual_total", ctypes.c_ulonglong),
        ("virtual_free", ctypes.c_ulonglong),
        ("extended_free", ctypes.c_ulonglong),
    )


def _windows_memory() -> tuple[int | None, int | None]:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    kernel32 = ctypes.windll.kernel32  # type: ignore[attr-defined]
    if not kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, None
    return int(status.total), int(status.free)


def _disk_free(folder: Path) -> int | None:
    """Free bytes where the folder is, or would be."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None
