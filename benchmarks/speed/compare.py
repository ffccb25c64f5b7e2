"""``python -m benchmarks compare {zone,lifespan}``: agesdk beside what one would use instead.

Same weights, same noise, same picture. The two run alternately in one go, each in a process of its own; the
ratio of their medians stands beside the difference of their pictures and the memory that each takes.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from agesdk.bundle import Bundle
from agesdk.errors import UsageError
from agesdk.precision import PRECISIONS, choose
from benchmarks.quality.metrics import psnr
from benchmarks.quality.packages import cache_folder
from benchmarks.speed import lifespan_case, memory, zone_case
from benchmarks.speed.contenders import Contender, race
from benchmarks.speed.gate import check_goldens
from benchmarks.speed.options import add_runtime_arguments, check_counts
from benchmarks.speed.output import add_output_arguments, check_output, publish
from benchmarks.speed.record import Record, Recorder
from benchmarks.speed.statistics import percentiles, ratio
from benchmarks.speed.tables import Table, seconds, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_PSNR = 40.0
"""dB in fp32, of the picture that differs most: the same weights, noise and picture give over 70."""

CASES = {"zone": zone_case, "lifespan": lifespan_case}

PACKAGE_OF_PEER = {"diffusers": "diffusers", "diffusers-batched": "diffusers", "openvino": "openvino"}
EXTRA_OF_PACKAGE = {"diffusers": "dev", "openvino": "peers"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``compare``."""
    parser.add_argument("method", choices=CASES, help="what is done")
    parser.add_argument(
        "--size",
        metavar="SIZE",
        help="of the networks, which have random weights: tiny or sd15 of zone, tiny or sdxl of lifespan",
        default="tiny",
    )
    parser.add_argument(
        "--peer",
        action="append",
        metavar="PEER",
        help=f"{', '.join(PACKAGE_OF_PEER)}; may be repeated (default: all of diffusers that the method has)",
    )
    parser.add_argument(
        "--precision", default="fp32", choices=PRECISIONS, help="of agesdk (default: %(default)s)"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FOLDER",
        help="made by benchmarks.fullsize (default: made in the cache)",
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="FOLDER", help="exported from it (default: exported into the cache)"
    )
    parser.add_argument(
        "--clip-vocab", type=Path, metavar="FILE", help="for making a checkpoint of full size"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="of the schedule (default: the bundle's)")
    add_runtime_arguments(parser)
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Make or take the models, check the goldens, race against every peer, publish."""
    case = CASES[arguments.method]
    check_counts(arguments, threads=1, repeat=2, steps=1)
    if arguments.size not in case.SIZES:
        raise UsageError(
            f"The size {arguments.size!r} is unknown", f"{arguments.method} has {', '.join(case.SIZES)}"
        )
    peers = _checked_peers(arguments.peer or case.DEFAULT_PEERS, case.PEERS)
    memory.check_fits(case.SIZES[arguments.size], f"Comparing at the size {arguments.size}")
    check_output(arguments)
    checkpoint, folder = case.models(
        arguments, cache_folder() / "compare" / arguments.method / arguments.size
    )
    bundle = Bundle.open(folder)
    check_goldens(
        choose(bundle, arguments.precision, "onnxruntime", "cpu"), "onnxruntime", "cpu", arguments.threads
    )
    job = case.job(bundle, checkpoint, arguments)
    recorder = Recorder("compare", tuple(arguments.words), bundle)
    recorder.settings.update(
        method=arguments.method,
        size=arguments.size,
        precision=arguments.precision,
        threads=arguments.threads,
        work=case.describe(job),
    )
    own = Contender("agesdk", f"{case.CONTENDERS}:agesdk", {"job": job})
    with tqdm(total=2 * len(peers) * (1 + arguments.repeat), unit="run", disable=None) as bar:
        for peer in peers:
            other = Contender(peer, f"{case.CONTENDERS}:{peer.replace('-', '_')}", {"job": job})
            ours, theirs = race(
                [own, other], arguments.repeat, arguments.threads, recorder, bar.update, {"peer": peer}
            )
            alike = [psnr(a, b) for a, b in zip(ours, theirs)]
            if arguments.precision == "fp32" and min(alike) < LEAST_PSNR:
                raise UsageError(
                    f"The pictures of agesdk and {peer} differ: {min(alike):.1f} dB",
                    f"in fp32 the same weights give more than {LEAST_PSNR:g} dB",
                    "Give a bundle that was exported from the checkpoint",
                )
            recorder.add("PSNR", "dB", *alike, peer=peer)
    publish(
        recorder.finish(), arguments, f"compare-{arguments.method}-{arguments.size}-{arguments.precision}"
    )
    return 0


def tables(record: Record) -> list[Table]:
    """Peers, a line each for them and agesdk in the same race; then the ratios."""
    contenders, ratios = [], []
    for peer in dict.fromkeys(str(series.labels["peer"]) for series in record.all("lap")):
        for name in ("agesdk", peer):
            laps = record.of("lap", peer=peer, contender=name)
            load, first = (record.of(key, peer=peer, contender=name) for key in ("load", "first"))
            peak = record.of("peak memory", peer=peer, contender=name)
            assert laps and load and first and peak
            found = percentiles(laps.samples)
            contenders.append(
                (
                    f"{name}, beside {peer}" if name == "agesdk" else name,
                    seconds(load.samples[0]),
                    seconds(first.samples[0]),
                    seconds(found.p50),
                    seconds(found.p90),
                    str(len(laps.samples)),
                    size(peak.samples[0]),
                )
            )
        ratios.append(_ratio_row(record, peer))
    what = record.settings["work"]
    return [
        Table(
            f"{what}; agesdk in {record.settings['precision']}, {record.settings['threads']} threads",
            ("who", "load", "first", "p50", "p90", "runs", "peak memory"),
            tuple(contenders),
        ),
        Table(
            "Beside agesdk: medians, and the middle half of neighbouring runs",
            ("peer", "time", "processor time", "memory, agesdk to peer", "PSNR, least", "mean"),
            tuple(ratios),
        ),
    ]


def plots(record: Record) -> list[Callable[[Axes], None]]:
    """The runs as they followed each other, a plot per peer."""

    def plot_of(peer: str) -> Callable[[Axes], None]:
        def plot(axes: Axes) -> None:
            for series in record.all("lap", peer=peer):
                axes.plot(series.samples, marker="o", markersize=3, label=str(series.labels["contender"]))
            axes.set_ylim(bottom=0.0)
            axes.set_xlabel("run")
            axes.set_ylabel("seconds")
            axes.legend()

        return plot

    peers = dict.fromkeys(str(series.labels["peer"]) for series in record.all("lap"))
    return [plot_of(peer) for peer in peers]


def _ratio_row(record: Record, peer: str) -> tuple[str, ...]:
    def pair(name: str) -> tuple[Sequence[float], Sequence[float]]:
        theirs, ours = (record.of(name, peer=peer, contender=who) for who in (peer, "agesdk"))
        assert theirs and ours
        return theirs.samples, ours.samples

    memory_theirs, memory_ours = pair("peak memory")
    likeness = record.of("PSNR", peer=peer)
    assert likeness
    return (
        peer,
        str(ratio(*pair("lap"))),
        str(ratio(*pair("processor"))),
        f"{memory_ours[0] / memory_theirs[0]:.2f}",
        f"{min(likeness.samples):.1f} dB",
        f"{np.mean(likeness.samples):.1f} dB",
    )


def _checked_peers(wanted: Sequence[str], known: Sequence[str]) -> list[str]:
    peers = list(dict.fromkeys(wanted))
    for peer in peers:
        if peer not in known:
            raise UsageError(f"The peer {peer!r} is unknown here", f"there are {', '.join(known)}")
        package = PACKAGE_OF_PEER[peer]
        if importlib.util.find_spec(package) is None:
            extra = EXTRA_OF_PACKAGE[package]
            raise UsageError(
                f"The peer {peer} needs {package}, which is not installed",
                "",
                f'pip install "agesdk[{extra}]"',
            )
    return peers
