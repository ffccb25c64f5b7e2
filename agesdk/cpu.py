"""What the processor can do, as far as it matters to inference."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

_FEATURES = {
    "AVX2": "avx2",
    "FMA": "fma",
    "AVX-512": "avx512f",
    "AVX-VNNI": "avx_vnni",
    "AVX512-VNNI": "avx512_vnni",
    "AVX512-BF16": "avx512_bf16",
    "AVX512-FP16": "avx512_fp16",
    "AMX-BF16": "amx_bf16",
    "AMX-INT8": "amx_int8",
    "NEON": "asimd",
    "FP16": "asimdhp",
    "DOTPROD": "asimddp",
    "I8MM": "i8mm",
    "BF16": "bf16",
    "SVE2": "sve2",
}
"""Name -> flag in /proc/cpuinfo, x86-64 first, then 64-bit Arm."""

_WINDOWS_FEATURES = {"AVX2": 40, "AVX-512": 41, "NEON": 19, "DOTPROD": 43}
"""Name -> PF_* constant of IsProcessorFeaturePresent (winnt.h)."""


def cpu_features(cpuinfo: str | None = None) -> tuple[str, ...]:
    """Instruction sets that make inference faster, in a fixed order; empty where it can not be told.

    ``cpuinfo`` is the text of /proc/cpuinfo; None reads it, or asks Windows.
    """
    if cpuinfo is None:
        if os.name == "nt":
            present = ctypes.windll.kernel32.IsProcessorFeaturePresent  # type: ignore[attr-defined]
            return tuple(name for name, number in _WINDOWS_FEATURES.items() if present(number))
        try:
            cpuinfo = CPUINFO.read_text("utf-8", "replace")
        except OSError:
            return ()
    flags: set[str] = set()
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    return tuple(name for name, flag in _FEATURES.items() if flag in flags)
