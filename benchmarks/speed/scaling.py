"""``python -m benchmarks scaling BUNDLE``: how time and memory grow, along one axis after the other.

Axes of a zone-aging bundle: ``batch`` (rows of one denoising step), ``zones``, ``steps``, ``pixels`` (of the
photograph) and ``calls`` (many calls in one process: memory must not grow). A lifespan-aging bundle has
``batch``, ``ages`` (of one sweep) and ``calls``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from agesdk.backends import load_engine
from agesdk.bundle import Bundle
from agesdk.errors import UsageError
from agesdk.faces.zones import ZONES
from agesdk.lifespan_aging import LifespanAger
from agesdk.precision import PRECISIONS, choose
from agesdk.zone_aging import ZoneAger
from benchmarks.speed import memory
from benchmarks.speed.feeds import random_feeds
from benchmarks.speed.gate import check_goldens
from benchmarks.speed.options import add_runtime_arguments, check_counts, open_bundle
from benchmarks.speed.output import add_output_arguments, check_output, publish
from benchmarks.speed.photos import portrait
from benchmarks.speed.record import Record, Recorder, Series
from benchmarks.speed.statistics import percentiles, slope
from benchmarks.speed.tables import Table, seconds, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {
    "zone-aging": ("batch", "zones", "steps", "pixels", "calls"),
    "lifespan-aging": ("batch", "ages", "calls"),
}

BATCHES, ZONE_COUNTS, STEPS, MEGAPIXELS, AGES = (
    (1, 2, 4, 8, 12),
    (1, 2, 4, 8, 12),
    (4, 8, 16, 32),
    (0.5, 1, 2, 4, 12),
    (1, 2, 4, 8),
)

SETTLED = 0.1
"""Share of the calls after which memory should have stopped growing: buffers have been made by then."""

Point = Callable[[], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``scaling``."""
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="default: the embedded one")
    parser.add_argument(
        "--axis", action="append", metavar="AXIS", help="only this; may be repeated (default: all but calls)"
    )
    parser.add_argument(
        "--calls", type=int, default=1000, metavar="N", help="of that axis (default: %(default)s)"
    )
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="default: %(default)s")
    add_runtime_arguments(parser)
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check the goldens, measure every axis, publish."""
    check_counts(arguments, threads=1, repeat=1, calls=20)
    check_output(arguments)
    bundle = open_bundle(arguments.bundle)
    known = AXES.get(bundle.manifest.kind, ())
    if not known:
        raise UsageError(
            f"{bundle.path} is a {bundle.manifest.kind} bundle", f"axes are known of {' and '.join(AXES)}"
        )
    axes = list(dict.fromkeys(arguments.axis or ())) or [axis for axis in known if axis != "calls"]
    for axis in axes:
        if axis not in known:
            raise UsageError(f"The bundle has no axis {axis!r}", f"it has {', '.join(known)}")
    chosen = choose(bundle, arguments.precision, "onnxruntime", "cpu")
    check_goldens(chosen, "onnxruntime", "cpu", arguments.threads)
    recorder = Recorder("scaling", tuple(arguments.words), bundle)
    recorder.settings.update(precision=arguments.precision, threads=arguments.threads)
    for axis in axes:
        if axis == "calls":
            _calls(chosen, arguments, recorder)
        else:
            _measure(axis, _points(axis, chosen, arguments.threads), arguments.repeat, recorder)
    publish(recorder.finish(), arguments, f"scaling-{bundle.manifest.name}")
    return 0


def tables(record: Record) -> list[Table]:
    """A table per axis; what a unit costs tells whether growth is linear."""
    found = []
    for axis in _axes(record):
        rows = []
        for series in record.all("run", axis=axis):
            at = float(series.labels["at"])
            peak = record.of("peak memory", axis=axis, at=series.labels["at"])
            assert peak
            median = percentiles(series.samples).p50
            rows.append((f"{at:g}", seconds(median), seconds(median / at), size(peak.samples[0])))
        found.append(Table(f"Over {axis}", (axis, "p50", "per unit", "peak memory"), tuple(rows)))
    held = record.of("resident", axis="calls")
    if held:
        growth = slope(_settled(held))
        facts = (
            ("calls", str(len(held.samples))),
            ("growth per call, after the first tenth", f"{growth / 1e6:.4f} MB"),
            (
                "resident after the first tenth, at the end",
                f"{size(_settled(held)[0])}, {size(held.samples[-1])}",
            ),
        )
        found.append(Table("Many calls in one process", ("what", "value"), facts))
    return found


def plots(record: Record) -> list[Callable[[Axes], None]]:
    """Time and memory over each axis."""

    def over(axis: str) -> Callable[[Axes], None]:
        def plot(axes: Axes) -> None:
            points = list(record.all("run", axis=axis))
            x = [float(series.labels["at"]) for series in points]
            axes.plot(x, [percentiles(series.samples).p50 for series in points], "o-", label="seconds")
            axes.set_xlabel(axis)
            axes.set_ylabel("seconds")
            axes.set_ylim(bottom=0.0)
            memory_axes = axes.twinx()
            peaks = [series.samples[0] / 1e6 for series in record.all("peak memory", axis=axis)]
            memory_axes.plot(x, peaks, "s--", color="tab:gray")
            memory_axes.set_ylabel("peak memory, MB (grey)")
            memory_axes.set_ylim(bottom=0.0)

        return plot

    def calls(axes: Axes) -> None:
        held = record.of("resident", axis="calls")
        assert held
        axes.plot(np.array(held.samples) / 1e6)
        axes.set_xlabel("calls")
        axes.set_ylabel("resident memory, MB")

    return [over(axis) for axis in _axes(record)] + ([calls] if record.of("resident") else [])


def _measure(axis: str, points: Iterable[tuple[float, Point]], repeat: int, recorder: Recorder) -> None:
    """Every point: once to warm up, then the samples; upwards, since a runtime keeps the memory it took."""
    for at, call in points:
        memory.forget_peak()
        call()
        for _ in tqdm(range(repeat), desc=f"{axis} {at:g}", disable=None, leave=False):
            begin = time.perf_counter()
            call()
            recorder.add("run", "s", time.perf_counter() - begin, axis=axis, at=at)
        recorder.add("peak memory", "B", memory.peak(), axis=axis, at=at)


def _points(axis: str, bundle: Bundle, threads: int) -> Iterable[tuple[float, Point]]:
    if axis == "batch":
        engine = load_engine(bundle, "denoise", threads=threads)
        sizes = [size for size in BATCHES if size <= engine.profile["batch"][2]]
        return [(size, _bound(engine.run, random_feeds(engine, size))) for size in sizes]
    if axis == "ages":
        life = LifespanAger.load(bundle, threads=threads)
        person = life.prepare(portrait(0.5))

        def sweep(count: int) -> None:
            ages = range(40, 40 + 4 * count, 4)  # within the tables of the bundles that compare exports
            for _ in life.sweep(person, 30, ages=ages, gender="female", seed=0):
                pass

        return [(count, _bound(sweep, count)) for count in AGES]
    ager = ZoneAger.load(bundle, threads=threads)
    if axis == "pixels":
        return ((1e6 * count, _bound(_whole_run, ager, portrait(count))) for count in MEGAPIXELS)
    face = ager.prepare(portrait(1.0))
    names = list(face.crops)
    if axis == "zones":
        counts = [count for count in ZONE_COUNTS if count <= len(names)]
        return [(n, _bound(ager.age, face, dict.fromkeys(names[:n], 0.8), seed=0)) for n in counts]
    return [(n, _bound(ager.age, face, 0.8, seed=0, steps=n)) for n in STEPS]


def _calls(bundle: Bundle, arguments: argparse.Namespace, recorder: Recorder) -> None:
    """One zone, or one age, over and over, the photograph prepared anew each time."""
    if bundle.manifest.kind == "lifespan-aging":
        life, image = LifespanAger.load(bundle, threads=arguments.threads), portrait(0.5)

        def call() -> None:
            life.age(life.prepare(image), 30, 70, "female", seed=0)
    else:
        ager, image = ZoneAger.load(bundle, threads=arguments.threads), portrait(1.0)

        def call() -> None:
            ager.age(ager.prepare(image), {ZONES[0].name: 0.8}, seed=0)

    for _ in tqdm(range(arguments.calls), desc="calls", disable=None, leave=False):
        call()
        recorder.add("resident", "B", memory.resident(), axis="calls")


def _whole_run(ager: ZoneAger, image: np.ndarray) -> None:
    ager.age(ager.prepare(image), 0.8, seed=0)


def _bound(function: Callable[..., Any], *arguments: Any, **options: Any) -> Point:
    return lambda: function(*arguments, **options)


def _axes(record: Record) -> list[str]:
    return list(dict.fromkeys(str(series.labels["axis"]) for series in record.all("run")))


def _settled(held: Series) -> Sequence[float]:
    return held.samples[int(SETTLED * len(held.samples)) :]
