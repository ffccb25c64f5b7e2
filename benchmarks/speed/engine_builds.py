"""``python -m benchmarks engines BUNDLE``: what compiling a bundle for a GPU costs, per component.

``python -m engines build`` does the work, into a cache of its own that is thrown away; ahead of time with
TensorRT-RTX no GPU is needed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agesdk.engine_cache import EngineCache
from agesdk.errors import UsageError
from benchmarks.speed.options import open_bundle
from benchmarks.speed.output import add_output_arguments, check_output, publish
from benchmarks.speed.record import Record, Recorder
from benchmarks.speed.tables import Table, seconds, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``engines``."""
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="default: the embedded one")
    parser.add_argument(
        "--target",
        action="append",
        metavar="TARGET",
        help="as of python -m engines build; may be repeated (default: rtx:89)",
    )
    parser.add_argument(
        "--component", action="append", metavar="NAME", help="only this component; may be repeated"
    )
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build, read the records that the builds left, publish."""
    check_output(arguments)
    bundle = open_bundle(arguments.bundle)
    recorder = Recorder("engines", tuple(arguments.words), bundle)
    with tempfile.TemporaryDirectory() as cache:
        for target in arguments.target or ["rtx:89"]:
            command = [sys.executable, "-m", "engines", "build", str(bundle.path)]
            command += ["--target", target, "--cache", cache]
            for name in arguments.component or ():
                command += ["--component", name]
            done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
            if done.returncode != 0:
                lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                raise UsageError(f"The bundle can not be built for {target}", lines[-1])
        for entry in EngineCache(Path(cache)).entries():
            built = entry.record
            labels = {
                "component": built.component,
                "precision": built.precision,
                "target": f"{built.key.runtime} {built.key.runtime_version}, "
                + " and ".join(built.key.compute_capabilities),
            }
            recorder.add("build", "s", built.seconds, **labels)
            recorder.add("build, processor", "s", built.processor_seconds, **labels)
            recorder.add("engine", "B", built.size, **labels)
            if built.peak_bytes:
                recorder.add("peak memory", "B", built.peak_bytes, **labels)
    publish(recorder.finish(), arguments, f"engines-{bundle.manifest.name}")
    return 0


def tables(record: Record) -> list[Table]:
    """A line per engine."""
    rows = []
    for series in record.all("build"):
        others = [
            next(record.all(name, **series.labels), None)
            for name in ("build, processor", "engine", "peak memory")
        ]
        processor, engine, peak = (found.samples[0] if found else None for found in others)
        rows.append(
            (
                str(series.labels["component"]),
                str(series.labels["precision"]),
                str(series.labels["target"]),
                seconds(series.samples[0]),
                seconds(processor) if processor is not None else "",
                size(engine) if engine is not None else "",
                size(peak) if peak is not None else "",
            )
        )
    columns = ("component", "precision", "target", "time", "processor time", "engine", "peak memory")
    return [Table("Engines", columns, tuple(rows))]


def plots(record: Record) -> list[Callable[[Axes], None]]:
    """Processor time of every build."""

    def plot(axes: Axes) -> None:
        builds = list(record.all("build, processor"))
        axes.barh([str(series.labels["component"]) for series in builds], [s.samples[0] for s in builds])
        axes.set_xlabel("processor seconds")

    return [plot]
