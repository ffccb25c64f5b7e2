"""``python -m benchmarks roofline BUNDLE``: how near the networks come to what the machine can do.

The limits are measured in the same run, and alternately with the networks: a machine that slows down while it
is measured slows both. A network's place is its operations per byte, weights and activations read and written
once, and its operations per second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agesdk.backends import load_engine
from agesdk.bundle import Bundle
from agesdk.errors import UsageError
from agesdk.precision import PRECISIONS, choose
from benchmarks.speed.feeds import random_feeds
from benchmarks.speed.gate import check_goldens
from benchmarks.speed.options import add_runtime_arguments, check_counts, open_bundle
from benchmarks.speed.output import add_output_arguments, check_output, publish
from benchmarks.speed.peaks import Peak, peaks
from benchmarks.speed.record import Record, Recorder
from benchmarks.speed.statistics import percentiles
from benchmarks.speed.tables import Table, seconds
from benchmarks.speed.work import count_work

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMPONENTS = ("denoise", "vae_encoder", "vae_decoder")


SLOW_SECONDS = 2.0
"""A limit that takes longer is measured once: the processor has no instructions for it, and it bounds
nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``roofline``."""
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="default: the embedded one")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="rows (default: %(default)s)")
    parser.add_argument(
        "--component", action="append", metavar="NAME", help=f"default: {', '.join(COMPONENTS)}"
    )
    add_runtime_arguments(parser)
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check the goldens, measure limits and networks, publish."""
    check_counts(arguments, threads=1, repeat=1, batch=1)
    check_output(arguments)
    try:
        import torch  # noqa: F401  (peaks need it; better to know before networks have been timed)
    except ImportError:
        raise UsageError(
            "The limits of the machine are measured with torch, which is not installed",
            "",
            'pip install "agesdk[dev]"',
        ) from None
    bundle = open_bundle(arguments.bundle)
    chosen = choose(bundle, arguments.precision, "onnxruntime", "cpu")
    check_goldens(chosen, "onnxruntime", "cpu", arguments.threads)
    recorder = Recorder("roofline", tuple(arguments.words), bundle)
    recorder.settings.update(precision=arguments.precision, threads=arguments.threads, batch=arguments.batch)
    limits = list(peaks(arguments.threads))
    for name in arguments.component or COMPONENTS:
        _measure(chosen, name, limits, arguments, recorder)
    publish(recorder.finish(), arguments, f"roofline-{bundle.manifest.name}-{arguments.precision}")
    return 0


def tables(record: Record) -> list[Table]:
    """The limits, the networks under them."""
    limits = tuple(
        (
            str(series.labels["peak"]),
            _rate(percentiles(series.samples).p50, series.unit),
            _rate(max(series.samples), series.unit),
        )
        for series in record.all("peak")
    )
    rows = []
    for series in record.all("run"):
        name = str(series.labels["component"])
        flop, size = (record.of(key, component=name) for key in ("work", "traffic"))
        assert flop and size
        median = percentiles(series.samples).p50
        rate, intensity = flop.samples[0] / median, flop.samples[0] / size.samples[0]
        rows.append(
            (
                name,
                str(series.labels["batch"]),
                seconds(median),
                f"{flop.samples[0] / 1e9:.2f}",
                f"{intensity:.0f}",
                _rate(rate, "FLOP/s"),
                f"{rate / _ceiling(record, 'sgemm'):.2f}",
            )
        )
    return [
        Table(f"Limits, {record.settings['threads']} threads", ("what", "median", "best"), limits),
        Table(
            f"Networks in {record.settings['precision']}",
            ("component", "rows", "p50", "GFLOP", "FLOP/byte", "reached", "of the median sgemm"),
            tuple(rows),
        ),
    ]


def plots(record: Record) -> list[Callable[[Axes], None]]:
    """The roofline."""

    def plot(axes: Axes) -> None:
        x = np.geomspace(1.0, 3000.0, 200)
        bandwidth = _ceiling(record, "memory")
        for kind in ("sgemm", "bf16", "int8"):
            axes.plot(x, np.minimum(x * bandwidth, _ceiling(record, kind)) / 1e9, label=kind)
        for series in record.all("run"):
            name = str(series.labels["component"])
            flop, size = (record.of(key, component=name) for key in ("work", "traffic"))
            assert flop and size
            place = (
                flop.samples[0] / size.samples[0],
                flop.samples[0] / percentiles(series.samples).p50 / 1e9,
            )
            axes.plot(*place, "o")
            axes.annotate(name, place, textcoords="offset points", xytext=(4, -10), fontsize=8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("FLOP per byte")
        axes.set_ylabel("GFLOP/s")
        axes.legend()

    return [plot]


def _measure(
    bundle: Bundle, name: str, limits: list[Peak], arguments: argparse.Namespace, recorder: Recorder
) -> None:
    engine = load_engine(bundle, name, threads=arguments.threads)
    low, _, high = engine.profile.get("batch", (1, 1, 1))
    batch = min(max(arguments.batch, low), high)
    feeds = random_feeds(engine, batch)
    work = count_work(bundle, name, feeds)
    recorder.add("work", "FLOP", work.flop, component=name)
    recorder.add("traffic", "B", work.bytes, component=name)
    for number in range(1 + arguments.repeat):
        begin = time.perf_counter()
        engine.run(feeds)
        taken = time.perf_counter() - begin
        for limit in list(limits):
            rate = limit.sample()
            slow = limit.amount / rate > SLOW_SECONDS
            if number or slow:
                recorder.add("peak", limit.unit, rate, peak=limit.name)
            if slow:
                limits.remove(limit)
        if number:
            recorder.add("run", "s", taken, component=name, batch=batch)


def _ceiling(record: Record, kind: str) -> float:
    """The best of the medians of the limits whose name begins so."""
    return max(
        percentiles(series.samples).p50
        for series in record.all("peak")
        if str(series.labels["peak"]).startswith(kind)
    )


def _rate(value: float, unit: str) -> str:
    return f"{value / 1e9:.0f} G{unit}"
