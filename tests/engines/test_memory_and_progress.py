"""The memory a build needs and has, and how far it is."""

from __future__ import annotations

import io

import pytest

from engines.memory import (
    OutOfMemory,
    _cgroup_available,
    _linux_available,
    available,
    check_fits,
    estimate,
    peak,
)
from engines.progress import PhaseTracker, ProgressLine, seconds_left

GB = 10**9


@pytest.mark.parametrize(("weights", "seen"), [(3.44 * GB, 11.0 * GB), (5.13 * GB, 19.3 * GB)])
def test_the_estimate_covers_what_was_seen_and_is_not_far_above(weights, seen) -> None:
    """Stable Diffusion 1.5's UNet in float32 and SDXL's in float16."""
    assert seen < estimate(int(weights)) < 1.35 * seen


def test_a_build_that_can_not_fit_is_refused_unless_forced() -> None:
    with pytest.raises(OutOfMemory, match=r"about 20\.0 GB.*16\.0 GB are free.*--force"):
        check_fits([int(5.13 * GB)], 1, 16 * GB, force=False)
    assert check_fits([int(5.13 * GB)], 1, 16 * GB, force=True) > 16 * GB
    check_fits([int(5.13 * GB)], 1, None, force=False)


def test_components_built_at_once_need_memory_at_once() -> None:
    weights = [1 * GB, 2 * GB, 3 * GB]
    assert check_fits(weights, 1, 20 * GB, force=False) == estimate(3 * GB)
    assert check_fits(weights, 2, 30 * GB, force=False) == estimate(3 * GB) + estimate(2 * GB)
    with pytest.raises(OutOfMemory, match="fewer --workers"):
        check_fits(weights, 2, 15 * GB, force=False)


def test_the_containers_limit_counts(tmp_path) -> None:
    (tmp_path / "memory.max").write_text("8000\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 2000\n")
    assert _cgroup_available(tmp_path) == 5000
    (tmp_path / "memory.max").write_text("max\n")
    assert _cgroup_available(tmp_path) is None


def test_available_memory_is_read(tmp_path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    1234 kB\n")
    assert _linux_available(tmp_path / "meminfo") == 1234 * 1024
    assert _linux_available(tmp_path / "none") is None
    assert (available() or 1) > 0
    assert (peak() or GB) > 10**6


def test_nested_phases_are_one_fraction() -> None:
    tracker = PhaseTracker()
    assert tracker.state() == ("", 0.0)
    tracker.start("Building", None, 4)
    tracker.step("Building", 0)
    assert tracker.state() == ("Building", 0.25)
    tracker.start("Timing", "Building", 2)
    tracker.step("Timing", 0)
    assert tracker.state() == ("Timing", 0.375)
    tracker.start("Inner", "Timing", 10)
    tracker.step("Inner", 4)
    assert tracker.state() == ("Inner", pytest.approx(0.4375))
    tracker.finish("Inner")
    tracker.finish("Timing")
    tracker.step("Building", 3)
    assert tracker.state() == ("Building", 1.0)


def test_steps_of_unknown_phases_and_phases_without_steps_do_no_harm() -> None:
    tracker = PhaseTracker()
    tracker.step("none", 3)
    tracker.finish("none")
    tracker.start("empty", None, 0)
    tracker.step("empty", 5)
    assert tracker.state() == ("empty", 1.0)


@pytest.mark.parametrize(
    ("elapsed", "fraction", "expected", "left"),
    [(10, 0.5, None, 10), (10, 0.25, None, 30), (10, 0.01, None, None), (10, 0.9, 45, 35), (60, 0.1, 45, 0)],
)
def test_time_left(elapsed, fraction, expected, left) -> None:
    assert seconds_left(elapsed, fraction, expected) == (left if left is None else pytest.approx(left))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_is_for_terminals_only() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        line = ProgressLine(stream)
        line.show("denoise for 8.9", "Timing tactics", 12.3, 30.2)
        line.show("denoise for 8.9", "", 50, 0.0)
        line.clear()
    assert "denoise for 8.9: 12 s, about 30 s left (Timing tactics)" in terminal.getvalue()
    assert "longer than expected" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\033[K")
    assert file.getvalue() == ""
