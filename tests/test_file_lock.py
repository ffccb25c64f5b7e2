"""The lock between processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agesdk.errors import OutputError
from agesdk.file_lock import file_lock

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys, time
from pathlib import Path
from agesdk.file_lock import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def start_holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_held_lock_is_waited_for_and_its_holder_named(tmp_path: Path) -> None:
    holder = start_holder(tmp_path / "lock")
    try:
        told: list[str] = []
        with (
            pytest.raises(OutputError, match=f"process {holder.pid}"),
            file_lock(tmp_path / "lock", timeout=0.3, on_wait=told.append),
        ):
            pass
        assert len(told) == 1
        assert f"process {holder.pid}, since 20" in told[0]
    finally:
        holder.kill()
        holder.wait()


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    holder = start_holder(tmp_path / "lock")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with file_lock(tmp_path / "lock", timeout=0):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_the_lock_is_free_after_an_error_inside(tmp_path: Path) -> None:
    with pytest.raises(KeyError), file_lock(tmp_path / "lock"):
        raise KeyError
    with file_lock(tmp_path / "lock", timeout=0):
        pass


def test_threads_of_one_process_exclude_each_other_too(tmp_path: Path) -> None:
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        with file_lock(tmp_path / "lock"):
            inside += 1
            most = max(most, inside)
            threading.Event().wait(0.01)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_what_stands_in_the_file_is_for_people_only(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"\xff not JSON")
    with file_lock(tmp_path / "lock", timeout=0):
        pass


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="lock"), file_lock(tmp_path / "none" / "lock"):
        pass
