"""Contenders run in turn, each in its own process with its own memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agesdk.errors import UsageError
from benchmarks.speed.contenders import Contender, race
from benchmarks.speed.record import Recorder

HERE = "tests.benchmarks.speed.test_contenders"


def painter(level: int, megabytes: int = 0) -> Any:
    """Work that paints one level, and holds memory."""
    held = np.ones(megabytes * 10**6, np.uint8)

    def work() -> np.ndarray:
        assert held.size == megabytes * 10**6
        return np.full((1, 2, 2, 3), level, np.uint8)

    return work


def refuser() -> Any:
    raise UsageError("No paint", "the bucket is empty")


def breaker() -> Any:
    raise FileNotFoundError("no brush")


def dier() -> Any:
    import os

    return lambda: os._exit(7)


def run(*contenders: Contender) -> tuple[list[np.ndarray], Any]:
    recorder = Recorder("compare", ())
    pictures = race(contenders, 3, 1, recorder, lambda: None, {"peer": "b"})
    return pictures, recorder.finish()


def test_pictures_samples_and_memory_are_each_ones_own() -> None:
    light = Contender("a", f"{HERE}:painter", {"level": 7})
    heavy = Contender("b", f"{HERE}:painter", {"level": 9, "megabytes": 300})
    pictures, record = run(light, heavy)
    assert [int(picture.max()) for picture in pictures] == [7, 9]
    assert all(len(record.of("lap", contender=name, peer="b").samples) == 3 for name in "ab")
    peaks = [record.of("peak memory", contender=name).samples[0] for name in "ab"]
    assert 280e6 < peaks[1] - peaks[0] < 330e6


def test_a_contender_that_can_not_work_says_why() -> None:
    with pytest.raises(UsageError, match="the bucket is empty"):
        run(Contender("b", f"{HERE}:refuser", {}))


def test_whatever_breaks_a_contender_is_told() -> None:
    with pytest.raises(UsageError, match=r"b can not do this.*FileNotFoundError: no brush"):
        run(Contender("b", f"{HERE}:breaker", {}))


def test_a_contender_that_dies_is_named_with_its_exit_code() -> None:
    with pytest.raises(UsageError, match=r"b ended early.*exit code 7"):
        run(Contender("b", f"{HERE}:dier", {}))
