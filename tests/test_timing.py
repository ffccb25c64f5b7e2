"""Stage timings."""

from __future__ import annotations

import time

import pytest

from agesdk.timing import Stage, StageTimings, Stopwatch


def test_stages_add_up_in_the_order_of_their_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 3.0, 4.0, 5.0, 5.5, 10.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = Stopwatch()
    for name in ("encode", "denoise", "encode"):
        with watch.stage(name):
            pass
    timings = watch.timings()
    assert timings == StageTimings({"encode": Stage((2.0, 0.5)), "denoise": Stage((1.0,))}, 10.0)
    assert (timings.stages["encode"].seconds, timings.stages["encode"].count) == (2.5, 2)
    assert timings.as_dict() == {"encode": 2.5, "denoise": 1.0, "total": 10.0}
    assert str(timings) == "encode 2.500 s (2x), denoise 1.000 s, total 10.000 s"


def test_a_stage_that_raises_is_counted() -> None:
    watch = Stopwatch()
    with pytest.raises(KeyError), watch.stage("broken"):
        raise KeyError
    assert watch.timings().stages["broken"].count == 1
