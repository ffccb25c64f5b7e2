"""What it takes until something can be aged: imports and loading, in fresh processes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

from agesdk.bundle import Bundle
from benchmarks.speed.memory import limit_threads
from benchmarks.speed.record import Recorder

REPEAT = 5

_LOAD = {
    "zone-aging": "import agesdk; agesdk.ZoneAger.load({path!r}, threads={threads})",
    "lifespan-aging": "import agesdk; agesdk.LifespanAger.load({path!r}, threads={threads})",
}
IMPORT, PEER = "import agesdk", "import torch, diffusers"


def add_startup(recorder: Recorder, bundle: Bundle, threads: int, repeat: int = REPEAT) -> None:
    """Series ``start``: importing agesdk, importing and loading the bundle, and, where it is installed,
    importing torch and diffusers; alternately, without the start of the interpreter."""
    limit_threads(threads)
    programs = {IMPORT: IMPORT, "import agesdk and load": _LOAD[bundle.manifest.kind]}
    programs = {name: text.format(path=str(bundle.path), threads=threads) for name, text in programs.items()}
    if all(importlib.util.find_spec(name) for name in ("torch", "diffusers")):
        programs[PEER] = PEER
    for _ in range(repeat):
        for name, program in programs.items():
            recorder.add("start", "s", _inside_seconds(program), what=name)


def _inside_seconds(program: str) -> float:
    """Seconds that the program takes in a fresh interpreter, after the interpreter has started."""
    code = f"import time; begin = time.perf_counter(); {program}; print(time.perf_counter() - begin)"
    # Installed packages are compiled ahead; a source tree is not where the environment forbids it.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout.split()[-1])
