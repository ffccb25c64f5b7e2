"""``python -m benchmarks latency BUNDLE``: where the time of a run goes, the first and the later ones.

Stages are those of ``result.timings``; networks are told apart from the rest by timing every run of an
engine, so each denoising step is a sample. The goldens are checked before anything is timed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agesdk.bundle import Bundle
from agesdk.errors import UsageError
from agesdk.faces.zones import ZONES
from agesdk.imaging import read_image
from agesdk.precision import PRECISIONS, choose
from agesdk.timing import StageTimings
from benchmarks.speed import memory
from benchmarks.speed.feeds import random_feeds
from benchmarks.speed.gate import check_goldens
from benchmarks.speed.instruments import Instruments
from benchmarks.speed.options import add_runtime_arguments, check_counts, open_bundle
from benchmarks.speed.output import add_output_arguments, check_output, publish
from benchmarks.speed.photos import portrait
from benchmarks.speed.record import Record, Recorder, Series
from benchmarks.speed.startup import add_startup
from benchmarks.speed.statistics import percentiles
from benchmarks.speed.tables import Table, seconds, size
from benchmarks.speed.work import count_work

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TARGET_SCORE, SOURCE_AGE, TARGET_AGE, GENDER = 0.8, 30, 70, "female"


@dataclass(frozen=True)
class Subject:
    """An ager ready to be measured: both parts of a run, each giving its own timings."""

    prepare: Callable[[], Any]
    age: Callable[[Any], Any]
    instruments: Instruments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``latency``."""
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="default: the embedded one")
    parser.add_argument("--image", type=Path, metavar="FILE", help="default: the packaged portrait")
    parser.add_argument(
        "--megapixels", type=float, default=1.0, help="of the packaged portrait (default: %(default)s)"
    )
    parser.add_argument("--backend", default="onnxruntime", help="default: %(default)s")
    parser.add_argument("--provider", help="of the backend onnxruntime (default: cpu)")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="default: %(default)s")
    parser.add_argument("--batch", type=int, metavar="N", help="largest batch (default: the bundle's)")
    parser.add_argument("--zones", type=int, metavar="N", help="only the first N zones")
    parser.add_argument("--steps", type=int, metavar="N", help="of the schedule (default: the bundle's)")
    parser.add_argument(
        "--warmup",
        type=int,
        default=1,
        metavar="N",
        help="runs before those that count, the first included (default: 1)",
    )
    add_runtime_arguments(parser)
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check the goldens, measure, publish."""
    check_counts(arguments, threads=1, repeat=1, warmup=1, batch=1, zones=1, steps=1)
    check_output(arguments)
    bundle = open_bundle(arguments.bundle)
    chosen = choose(bundle, arguments.precision, arguments.backend, arguments.provider)
    image = _image(arguments)
    check_goldens(chosen, arguments.backend, arguments.provider, arguments.threads)
    recorder = Recorder("latency", tuple(arguments.words), bundle)
    precisions = {component.precision for component in chosen.manifest.components.values()}
    recorder.settings.update(
        backend=arguments.backend,
        provider=arguments.provider,
        threads=arguments.threads,
        precision=" and ".join(sorted(precisions)),
        pixels=image.shape[0] * image.shape[1],
        warmup=arguments.warmup,
        batch=arguments.batch,
        zones=arguments.zones,
        steps=arguments.steps,
    )
    memory.forget_peak()
    subject = _subject(chosen, image, arguments)
    measure(subject, arguments.warmup, arguments.repeat, recorder)
    for component, taken in subject.instruments.load_seconds.items():
        recorder.add("load", "s", taken, component=component)
    recorder.add("peak memory", "B", memory.peak())
    on_gpu = memory.gpu_used()
    if on_gpu is not None:
        recorder.add("GPU memory", "B", on_gpu)
    _count(chosen, recorder, arguments)
    add_startup(recorder, bundle, arguments.threads)
    publish(recorder.finish(), arguments, f"latency-{bundle.manifest.name}")
    return 0


def measure(subject: Subject, warmup: int, repeat: int, recorder: Recorder) -> None:
    """``warmup`` runs, the first of which is the cold one, and those that count."""
    subject.instruments.laps()
    for number in range(warmup + repeat):
        run = "first" if number == 0 else "warming" if number < warmup else "warm"
        begin = time.process_time()
        prepared = subject.prepare()
        _add(subject.instruments, prepared.timings, "prepare", run, time.process_time() - begin, recorder)
        begin = time.process_time()
        result = subject.age(prepared)
        _add(subject.instruments, result.timings, "age", run, time.process_time() - begin, recorder)


def tables(record: Record) -> list[Table]:
    """Totals and stages, networks, start-up."""
    found = [
        _stage_table(record),
        Table(
            f"Networks, per run of a graph ({record.settings['precision']}, "
            f"{record.settings['threads']} threads)",
            ("component", "rows", "load", "first", "p50", "p90", "p99", "runs", "GFLOP/s"),
            tuple(_network_rows(record)),
        ),
    ]
    facts = [("peak memory", size(series.samples[0])) for series in record.all("peak memory")]
    facts += [("GPU memory in use", size(series.samples[0])) for series in record.all("GPU memory")]
    facts += [
        (f"{series.labels['what']}, fresh process", seconds(percentiles(series.samples).p50))
        for series in record.all("start")
    ]
    for parts in (("prepare",), ("age",), ("prepare", "age")):
        share = 1.0 - _processor(record, "networks, processor", parts) / _processor(
            record, "processor", parts
        )
        facts.append((f"processor time that is no network, {' and '.join(parts)}", f"{100 * share:.1f} %"))
    found.append(Table("Process", ("what", "value"), tuple(facts)))
    return found


def plots(record: Record) -> list[Callable[[Axes], None]]:
    """Where the time goes: stages of preparing and aging, warm, as stacked bars."""

    def stages(axes: Axes) -> None:
        for row, part in enumerate(("prepare", "age")):
            left = 0.0
            for series in record.all("stage", part=part, run="warm"):
                if series.labels["stage"] == "total":
                    continue
                width = percentiles(series.samples).p50
                name = str(series.labels["stage"])
                axes.barh(row, width, left=left, label=f"{part}: {name}")
                left += width
        axes.set_yticks([0, 1], ["prepare", "age"])
        axes.set_xlabel("seconds, median, warm")
        axes.legend(fontsize=6)

    def spread(axes: Axes) -> None:
        names = [s for s in record.all("stage", run="warm") if s.labels["stage"] == "total"]
        axes.boxplot([series.samples for series in names])
        axes.set_xticks(range(1, len(names) + 1), [str(series.labels["part"]) for series in names])
        axes.set_ylabel("seconds in all")
        axes.set_ylim(bottom=0.0)

    return [stages, spread]


def _image(arguments: argparse.Namespace) -> np.ndarray:
    if arguments.image is not None:
        return read_image(arguments.image)
    if not 0.1 <= arguments.megapixels <= 60.0:
        raise UsageError(f"--megapixels {arguments.megapixels:g} is out of range", fix="Give 0.1 to 60")
    return portrait(arguments.megapixels)


def _subject(bundle: Bundle, image: np.ndarray, arguments: argparse.Namespace) -> Subject:
    tools = Instruments(arguments.backend, arguments.provider, arguments.threads, arguments.batch)
    if bundle.manifest.kind == "lifespan-aging":
        if arguments.zones is not None or arguments.steps is not None:
            raise UsageError("--zones and --steps are for zone-aging bundles", fix="Leave them out")
        life = tools.lifespan_ager(bundle)
        return Subject(
            lambda: life.prepare(image),
            lambda person: life.age(person, SOURCE_AGE, TARGET_AGE, GENDER, seed=0),
            tools,
        )
    ager = tools.zone_ager(bundle)
    names = [zone.name for zone in ZONES if zone.kind in ager.model.settings.zones][: arguments.zones]
    targets = dict.fromkeys(names, TARGET_SCORE)
    return Subject(
        lambda: ager.prepare(image),
        lambda face: ager.age(face, targets, steps=arguments.steps, seed=0),
        tools,
    )


def _add(
    tools: Instruments, timings: StageTimings, part: str, run: str, processor: float, recorder: Recorder
) -> None:
    """One part of one run, which took so many processor seconds."""
    recorder.add("processor", "s", processor, part=part, run=run)
    recorder.add("networks, processor", "s", tools.processor_seconds, part=part, run=run)
    for name, taken in timings.as_dict().items():
        recorder.add("stage", "s", taken, part=part, stage=name, run=run)
    rows = tools.rows
    for component, stage in tools.laps().items():
        for count, seconds_taken in zip(rows[component], stage.laps, strict=True):
            recorder.add("network", "s", seconds_taken, component=component, rows=count, run=run)


def _count(bundle: Bundle, recorder: Recorder, arguments: argparse.Namespace) -> None:
    """Work of one row of the heavy components."""
    from agesdk.backends import load_engine

    for component in ("vae_encoder", "denoise", "vae_decoder"):
        engine = load_engine(bundle, component, threads=arguments.threads)
        work = count_work(bundle, component, random_feeds(engine, 1))
        recorder.add("work of one row", "FLOP", work.flop, component=component)


def _stage_table(record: Record) -> Table:
    rows = []
    for part in ("prepare", "age"):
        for warm in record.all("stage", part=part, run="warm"):
            name = warm.labels["stage"]
            first = record.of("stage", part=part, stage=name, run="first")
            rows.append((part, str(name), _median(first), *_percentiles(warm), str(len(warm.samples))))
    title = f"Stages of a run ({int(record.settings['pixels'] or 0) / 1e6:.1f} megapixels)"
    return Table(title, ("part", "stage", "first", "p50", "p90", "p99", "runs"), tuple(rows))


def _network_rows(record: Record) -> Iterator[tuple[str, ...]]:
    """A line for each component and batch size: batches of different size are no samples of one thing."""
    for component in _labels(record, "network", "component"):
        load = _median(record.of("load", component=component))
        work = record.of("work of one row", component=component)
        sizes = {series.labels.get("rows", "") for series in record.all("network", component=component)}
        for rows in sorted(sizes, key=str if "" in sizes else int):
            which = {"component": component} | ({} if rows == "" else {"rows": rows})
            first = record.of("network", **which, run="first")
            warm = record.of("network", **which, run="warm")
            speed = ""
            if warm and work and rows != "":
                done = float(rows) * work.samples[0] * len(warm.samples)
                speed = f"{done / sum(warm.samples) / 1e9:.0f}"
            measured = (*_percentiles(warm), str(len(warm.samples))) if warm else ("", "", "", "0")
            yield component, str(rows), load, seconds(first.samples[0]) if first else "", *measured, speed


def _processor(record: Record, name: str, parts: Sequence[str]) -> float:
    """Processor seconds of all warm runs of these parts."""
    return sum(sum(series.samples) for part in parts for series in record.all(name, part=part, run="warm"))


def _labels(record: Record, name: str, key: str) -> list[str]:
    return list(dict.fromkeys(str(series.labels[key]) for series in record.all(name)))


def _median(series: Series | None) -> str:
    return seconds(percentiles(series.samples).p50) if series else ""


def _percentiles(series: Series) -> tuple[str, str, str]:
    found = percentiles(series.samples)
    return seconds(found.p50), seconds(found.p90), seconds(found.p99)
