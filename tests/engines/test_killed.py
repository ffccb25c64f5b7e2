"""SIGKILL at random moments: nothing half-written is ever used, no lock stays, and the next build works.

``AGESDK_SLOW_TESTS=1`` kills fifty real builds instead of four.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from agesdk.engine_cache import EngineCache

ROOT = Path(__file__).parents[2]
WRITER = """
import dataclasses, os, sys
from agesdk.engine_cache import EngineCache
from tests.test_engine_cache import AHEAD, store
cache = EngineCache(sys.argv[1])
print("ready", flush=True)
turn = 0
while True:
    turn += 1
    store(cache, dataclasses.replace(AHEAD, optimization_level=turn % 3), bytes([turn % 256]) * 2_000_000)
    print("stored", flush=True)
"""


def assert_whole(cache: EngineCache) -> int:
    """Every entry is intact; the lock is free. Returns how many there are."""
    entries = cache.entries()
    assert all(cache.is_intact(entry) for entry in entries)
    with cache.writing(timeout=10):
        pass
    names = {path.name for path in cache.folder.iterdir()}
    wanted = {".lock", *(e.sidecar.name for e in entries), *(e.engine.name for e in entries)}
    assert names == wanted
    return len(entries)


def test_a_writer_killed_at_random_moments(engine_cache: EngineCache) -> None:
    """Only the writing, without TensorRT: nearly every kill falls into a lock, a write or a rename."""
    engine_cache.folder.mkdir(parents=True, mode=0o700)
    moments = random.Random(0)
    found = set()
    for turn in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(engine_cache.folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for _ in range(turn % 4):
            assert process.stdout.readline() == "stored\n"
        time.sleep(moments.uniform(0.0, 0.03))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found.add(assert_whole(engine_cache))
    assert max(found) == 3  # the writers did write


def build_command(cache: EngineCache) -> list[str]:
    return [
        *(sys.executable, "-m", "engines", "build", "zone-aging", "--target", "rtx:89"),
        *("--component", "condition_encoder", "--optimization-level", "0", "--cache", str(cache.folder)),
    ]


def test_a_build_killed_at_random_moments(engine_cache: EngineCache) -> None:
    pytest.importorskip("tensorrt_rtx")
    count = 50 if os.environ.get("AGESDK_SLOW_TESTS") else 4
    started = time.monotonic()
    subprocess.run(build_command(engine_cache), cwd=ROOT, check=True, capture_output=True)
    duration = time.monotonic() - started
    moments = random.Random(1)
    for turn in range(count):
        process = subprocess.Popen(
            [*build_command(engine_cache), "--rebuild"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(duration * (turn + moments.random()) / count)
        children = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive, "a compilation outlives the command that started it"
        if turn % 2:
            engine_cache.entries()[0].engine.unlink()  # so that there is something to build
        done = subprocess.run(build_command(engine_cache), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert assert_whole(engine_cache) == 1
