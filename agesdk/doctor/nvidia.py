"""NVIDIA GPUs, as ``nvidia-smi`` describes them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agesdk.doctor.findings import Finding
from agesdk.doctor.host import Host

_QUERY = ("name", "compute_cap", "driver_version", "memory.total", "memory.free")
_COMMANDS = ("nvidia-smi", r"C:\Windows\System32\nvidia-smi.exe", "/usr/lib/wsl/lib/nvidia-smi")
"""Windows services, and Linux under Windows, may lack the folder on their path."""


@dataclass(frozen=True)
class Gpu:
    """A GPU; memory in bytes, None where it shares the machine's (Jetson)."""

    name: str
    compute_capability: str
    driver: str
    memory_total: int | None
    memory_free: int | None


@dataclass(frozen=True)
class NvidiaInfo:
    """GPUs, the newest CUDA that the driver runs ("" if unknown), and what is wrong with the driver."""

    gpus: tuple[Gpu, ...] = ()
    driver_cuda: str = ""
    problem: Finding | None = None


def look_at_nvidia(host: Host) -> NvidiaInfo:
    """Facts from ``nvidia-smi``; without it, no GPU."""
    query = (f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits")
    for command in _COMMANDS:
        done = host.run(command, *query)
        if done is not None:
            break
    else:
        return NvidiaInfo()
    text = f"{done.stdout}\n{done.stderr}"
    if done.code != 0:
        return NvidiaInfo(problem=_problem(text))
    banner = host.run(command)
    cuda = re.search(r"CUDA Version: *([\d.]+)", banner.stdout if banner else "")
    gpus = tuple(gpu for line in done.stdout.splitlines() if (gpu := _gpu(line)) is not None)
    return NvidiaInfo(gpus, cuda.group(1) if cuda else "")


def _gpu(line: str) -> Gpu | None:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(_QUERY):
        return None
    name, capability, driver, total, free = cells
    return Gpu(name, capability, driver, _mebibytes(total), _mebibytes(free))


def _mebibytes(text: str) -> int | None:
    return int(text) * 2**20 if text.isdigit() else None


def _problem(text: str) -> Finding:
    why = next((line.strip() for line in text.splitlines() if line.strip()), "nvidia-smi failed")
    fix = "Install NVIDIA's driver again, and restart"
    if "version mismatch" in text:
        fix = "Restart: the driver was updated, and the kernel still has the old one"
    elif "couldn't communicate" in text:
        fix = (
            "Load the kernel's module (`sudo modprobe nvidia`). After a kernel update, install the driver "
            "again; with Secure Boot, sign it"
        )
    elif "No devices were found" in text:
        fix = (
            "Check that the GPU is seated and powered, and that the container or virtual machine is given it"
        )
    elif "Unable to determine the device handle" in text:
        fix = "Restart: the GPU fell off the bus; if it happens again, check its power and temperature"
    return Finding("warning", "NVIDIA's driver does not work", why, fix)
