"""``python -m benchmarks lifespan PHOTO BUNDLE...``: what a lifespan-aging bundle and its options cost and
change.

Every line is a process of its own, so that its peak memory is its own: the bundle opened, a face prepared,
aged once to load what is needed, and aged again to be timed. Time is processor time: it does not depend on
what else the machine does, as long as one thread is asked for.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agesdk.errors import AgeSDKError, UsageError
from agesdk.lifespan_aging import LifespanAger
from benchmarks.quality.metrics import psnr

PUBLISHED = "as published"


@dataclass(frozen=True)
class Option:
    """Arguments beside the defaults: of `LifespanAger.load`, `prepare` and `age`."""

    load: Mapping[str, Any]
    prepare: Mapping[str, Any]
    age: Mapping[str, Any]
    needs_text: bool = False


OPTIONS: dict[str, Option] = {
    PUBLISHED: Option({}, {}, {}),
    "latent_chaining": Option({}, {}, {"latent_chaining": True}),
    "one_threshold": Option({}, {}, {"one_threshold": True}),
    "low_memory": Option({"low_memory": True}, {}, {}),
    "align": Option({}, {"align": True}, {}),
    "text graphs": Option({"text": "graphs"}, {}, {}, needs_text=True),
    "free prompt": Option(
        {"text": "graphs"}, {}, {"prompt": "a photo of a very old person, wrinkled skin"}, needs_text=True
    ),
}


@dataclass(frozen=True)
class Request:
    """One aging: years, gender, seed, and threads inside an operator."""

    photo: str
    source_age: int
    target_age: int
    gender: str
    seed: int
    threads: int


@dataclass(frozen=True)
class Cost:
    """What one option costs, and how its picture differs from the published method's (same bundle and noise).

    Seconds are of the processor; memory is the process's resident set in MB: the largest so far after
    opening, after preparing and in all, and what is left at the end. The differences are None for the
    published method itself, and where the square is another.
    """

    bundle: str
    option: str
    prepare_seconds: float
    age_seconds: float
    steps: int
    opened_mb: int
    prepared_mb: int
    peak_mb: int
    left_mb: int
    psnr_db: float | None = None
    mean_levels: float | None = None
    max_levels: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lifespan``."""
    parser.add_argument("photo", metavar="PHOTO")
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE")
    parser.add_argument("--age", type=int, default=40, metavar="N", help="age in the photo (default 40)")
    parser.add_argument("--to", type=int, default=75, metavar="N", help="the age wanted (default 75)")
    parser.add_argument("--gender", default="female")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the runtime (default %(default)s)")
    parser.add_argument(
        "--option",
        action="append",
        choices=list(OPTIONS),
        metavar="NAME",
        help=f"only these beside the published method: {', '.join(OPTIONS)}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    request = Request(
        arguments.photo, arguments.age, arguments.to, arguments.gender, arguments.seed, arguments.threads
    )
    chosen = [PUBLISHED, *(name for name in arguments.option or OPTIONS if name != PUBLISHED)]
    costs = [cost for bundle in arguments.bundles for cost in measure_bundle(bundle, chosen, request)]
    if arguments.json:
        print(json.dumps([asdict(cost) for cost in costs], indent=2))
    else:
        print(table(costs))
    return 0


def measure_bundle(bundle: str, options: Sequence[str], request: Request) -> list[Cost]:
    """One line per option that the bundle can do, the published method first.

    Raises
    ------
    AgeSDKError
        The bundle or the photo can not be used.
    """
    from agesdk.bundle import Bundle, LifespanAgingSettings

    settings = Bundle.open(bundle, kind="lifespan-aging").settings
    assert isinstance(settings, LifespanAgingSettings)
    costs: list[Cost] = []
    published: np.ndarray | None = None
    for name in options:
        if OPTIONS[name].needs_text and not settings.text_encoders:
            continue
        cost, image = _in_a_process(bundle, name, request)
        if published is None:
            published = image
        elif not OPTIONS[name].prepare:
            difference = np.abs(image.astype(np.float64) - published)
            cost = replace(
                cost,
                psnr_db=psnr(image, published),
                mean_levels=float(difference.mean()),
                max_levels=int(difference.max()),
            )
        costs.append(cost)
    return costs


def table(costs: Sequence[Cost]) -> str:
    """As Markdown."""
    lines = [
        "| bundle | option | prepare, s | age, s | steps | opened, MB | prepared, MB | peak, MB | left, MB "
        "| PSNR, dB | mean / max level |",
        "|" + "---|" * 11,
    ]
    for cost in costs:
        differs = ["", ""]
        if cost.psnr_db is not None:
            differs = [f"{cost.psnr_db:.1f}", f"{cost.mean_levels:.2f} / {cost.max_levels}"]
        cells = [
            Path(cost.bundle).name,
            cost.option,
            f"{cost.prepare_seconds:.2f}",
            f"{cost.age_seconds:.2f}",
            str(cost.steps),
            *(str(size) for size in (cost.opened_mb, cost.prepared_mb, cost.peak_mb, cost.left_mb)),
            *differs,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _in_a_process(bundle: str, option: str, request: Request) -> tuple[Cost, np.ndarray]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_measure, (bundle, option, request))
    if isinstance(found, str):
        raise UsageError(f"The option {option} can not be measured", found)
    return found


def _measure(bundle: str, name: str, request: Request) -> tuple[Cost, np.ndarray] | str:
    """The cost and the aged picture, or what went wrong: an `AgeSDKError` does not survive pickling."""
    option = OPTIONS[name]
    try:
        ager = LifespanAger.load(bundle, threads=request.threads, **option.load)
        opened = _peak_mb()
        started = time.process_time()
        person = ager.prepare(request.photo, **option.prepare)
        prepare_seconds, prepared = time.process_time() - started, _peak_mb()
        arguments = (person, request.source_age, request.target_age, request.gender)
        ager.age(*arguments, seed=request.seed, **option.age)
        started = time.process_time()
        result = ager.age(*arguments, seed=request.seed, **option.age)
        age_seconds = time.process_time() - started
    except AgeSDKError as error:
        return str(error)
    cost = Cost(
        bundle,
        name,
        prepare_seconds,
        age_seconds,
        sum(result.settings["steps_run"]),
        opened,
        prepared,
        _peak_mb(),
        _resident_mb(),
    )
    return cost, result.image


def _peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


def _resident_mb() -> int:
    """On Linux; elsewhere the peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return _peak_mb()
    return round(pages * resource.getpagesize() / 1e6)
