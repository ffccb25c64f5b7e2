"""``python -m engines build``: compile components of a bundle into the engine cache."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import get_args

from agesdk import __version__
from agesdk.backends import cuda
from agesdk.backends.trt_library import import_library
from agesdk.backends.trt_plan import refuse_int8
from agesdk.bundle import Bundle, embedded_bundle
from agesdk.cache_dir import DEFAULT_LIMIT
from agesdk.engine_cache import CacheEntry, CacheWriter, EngineCache, EngineRecord
from agesdk.engine_key import EngineKey, RuntimeName, graph_hash, host_platform
from agesdk.errors import AgeSDKError, BackendError, UsageError
from agesdk.manifest import SETTINGS_OF_KIND, Component
from agesdk.precision import PRECISIONS, choose

from .compile import DEFAULT_OPTIMIZATION_LEVEL, Compiled, CompileJob
from .memory import available, check_fits
from .progress import ProgressLine, seconds_left
from .targets import Target, check_axes, parse_profile, parse_target, profiles_for
from .worker import run_job

logger = logging.getLogger(__name__)

SECONDS_PER_GB = 25.0
"""Ahead of time: between 13 (860 M float32 parameters) and 28 (2.6 G float16 parameters) were seen."""


@dataclass(frozen=True)
class Task:
    """One engine to be built."""

    bundle: Bundle
    component: Component
    key: EngineKey
    weights: int

    @property
    def title(self) -> str:
        target = " and ".join(self.key.compute_capabilities)
        return f"{self.component.name} in {self.component.precision} for {target}"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "build",
        help="compile a bundle for a GPU",
        description="Compile components of a bundle into the engine cache. Engines that are there stay.",
    )
    parser.add_argument("bundle", help=f"bundle folder, or an embedded one: {', '.join(SETTINGS_OF_KIND)}")
    parser.add_argument(
        "--target",
        action="append",
        required=True,
        metavar="TARGET",
        help="rtx:89 (TensorRT-RTX for compute capability 8.9, no GPU needed), rtx:86,89 (one engine for "
        "both), local, local:tensorrt or local:tensorrt-rtx (the GPU at hand); may be repeated",
    )
    parser.add_argument(
        "--component", action="append", metavar="NAME", help="only this component; may be repeated"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of the bundle's graphs (default: what it prefers on GPUs, as running it takes)",
    )
    parser.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="AXIS=MIN:BEST:MAX,...",
        help="sizes to build for instead of the manifest's; repeated for several profiles in one engine",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="components at once (default: 1)")
    parser.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        default=DEFAULT_OPTIMIZATION_LEVEL,
        help="how hard TensorRT tries (default: %(default)s)",
    )
    parser.add_argument("--rebuild", action="store_true", help="build engines that are there again")
    parser.add_argument("--force", action="store_true", help="build even if the memory seems too small")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="engine cache (default: the user's)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Build; 0 if every engine asked for is in the cache afterwards."""
    if arguments.workers < 1:
        raise UsageError(f"{arguments.workers} workers can not build anything", "", "Give 1 or more")
    tasks = plan(
        open_bundle(arguments.bundle),
        [parse_target(text) for text in arguments.target],
        arguments.component,
        [parse_profile(text) for text in arguments.profile],
        arguments.optimization_level,
        arguments.precision,
    )
    cache = EngineCache(arguments.cache)
    with cache.writing(
        on_wait=lambda holder: print(f"Waiting for {holder}, which builds.", file=sys.stderr)
    ) as writer:
        missing = []
        for task in tasks:
            entry = find_built(task, cache)
            if entry is None or arguments.rebuild:
                missing.append(task)
            else:
                print(f"{task.title}: in the cache, {entry.engine}")
        if missing:
            weights = [task.weights for task in missing]
            needed = check_fits(weights, arguments.workers, available(), arguments.force)
            logger.info("about %.1f GB of memory are needed", needed / 1e9)
        failed = build(missing, cache, writer, arguments.workers)
        kept = {entry.sidecar for task in tasks if (entry := find_built(task, cache)) is not None}
        for entry in writer.clean(limit=DEFAULT_LIMIT, keep=kept):
            print(f"removed {entry.engine.name}, the least recently used, to stay within the limit")
    return 2 if failed else 0


def open_bundle(name: str) -> Bundle:
    """A bundle folder, or an embedded bundle by its kind."""
    if name in SETTINGS_OF_KIND and not Path(name).exists():
        return Bundle.open(embedded_bundle(name))
    return Bundle.open(name)


def plan(
    bundle: Bundle,
    targets: Sequence[Target],
    names: Sequence[str] | None,
    profiles: Sequence[dict[str, tuple[int, int, int]]],
    optimization_level: int = DEFAULT_OPTIMIZATION_LEVEL,
    precision: str = "auto",
) -> list[Task]:
    """Every component for every target, with the keys their engines will have.

    Raises
    ------
    BundleError, UsageError
        An unknown component or axis, a size outside the manifest's range, or a precision it does not carry.
    BackendError
        The library is missing, or for ``local`` the GPU; or a graph is int8.
    """
    bundle = choose(bundle, precision, "tensorrt", names=names)
    components = [bundle.component(name) for name in names or bundle.manifest.components]
    for component in components:
        refuse_int8(component)
    check_axes(components, profiles)
    sizes = {entry.path: entry.size for entry in bundle.manifest.files}
    tasks = []
    for target in targets:
        library = import_library(target.runtime or _installed())
        gpu = None if target.compute_capabilities else cuda.current_gpu()
        for component in components:
            key = EngineKey(
                graph=graph_hash(bundle, component.name),
                bundle_profile=component.profile,
                profiles=profiles_for(component, profiles),
                runtime=library.name,
                runtime_version=library.version,
                platform=host_platform(),
                compute_capabilities=target.compute_capabilities
                if gpu is None
                else (gpu.compute_capability,),
                gpu=None if gpu is None else gpu.name,
                driver=None if gpu is None else gpu.driver,
                optimization_level=optimization_level,
            )
            tasks.append(Task(bundle, component, key, sum(sizes[path] for path in component.files)))
    return tasks


def find_built(task: Task, cache: EngineCache) -> CacheEntry | None:
    """The engine of exactly this task, whole; None if it has to be built."""
    for entry in cache.entries():
        record = entry.record
        if record.component == task.component.name and record.key == task.key:
            return entry if cache.is_intact(entry) else None
    return None


def build(tasks: Sequence[Task], cache: EngineCache, writer: CacheWriter, workers: int = 1) -> list[Task]:
    """Build engines, `workers` at once; those that fail are told on stderr and returned."""
    failed: list[Task] = []
    line, cancelled = ProgressLine(), threading.Event()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        jobs = {}
        for task in tasks:
            job = _job(task, writer.temporary())
            expected = _expected_seconds(task, cache)
            jobs[pool.submit(_compile, job, line, expected, cancelled)] = (task, job)
        try:
            for future in concurrent.futures.as_completed(jobs):
                task, job = jobs[future]
                try:
                    compiled = future.result()
                    entry = writer.commit(job.output, _record(task, compiled))
                except AgeSDKError as error:
                    line.clear()
                    print(f"{task.title}: {error}", file=sys.stderr)
                    failed.append(task)
                    continue
                line.clear()
                memory = f", {compiled.peak_bytes / 1e9:.2f} GB of memory" if compiled.peak_bytes else ""
                print(
                    f"{task.title}: {entry.record.size / 1e6:.1f} MB in {compiled.seconds:.1f} s "
                    f"({compiled.processor_seconds:.1f} s of processor time{memory}), {entry.engine}",
                    flush=True,
                )
        finally:
            cancelled.set()
            pool.shutdown(cancel_futures=True)
            line.clear()
    return failed


def _compile(
    job: CompileJob, line: ProgressLine, expected: float | None, cancelled: threading.Event
) -> Compiled:
    started = time.monotonic()

    def report(phase: str, fraction: float) -> None:
        elapsed = time.monotonic() - started
        line.show(job.title, phase, elapsed, seconds_left(elapsed, fraction, expected))

    return run_job(job, report, cancelled)


def _job(task: Task, output: Path) -> CompileJob:
    ahead_of_time = task.key.gpu is None
    return CompileJob(
        title=task.title,
        graph=task.bundle.component_path(task.component.name),
        component=task.component,
        profiles=task.key.profiles,
        runtime=task.key.runtime,
        compute_capabilities=task.key.compute_capabilities if ahead_of_time else (),
        optimization_level=task.key.optimization_level,
        output=output,
    )


def _record(task: Task, compiled: Compiled) -> EngineRecord:
    return EngineRecord(
        bundle=task.bundle.manifest.name,
        component=task.component.name,
        precision=task.component.precision,
        key=task.key,
        inputs=task.component.inputs,
        outputs=task.component.outputs,
        file="",
        size=0,
        sha256="",
        built=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(compiled.seconds, 2),
        processor_seconds=round(compiled.processor_seconds, 2),
        peak_bytes=compiled.peak_bytes,
        agesdk=__version__,
        layers=compiled.layers,
    )


def _expected_seconds(task: Task, cache: EngineCache) -> float | None:
    """What the same component took before, else by its size; None on a GPU, where TensorRT's steps tell."""
    for entry in cache.entries():
        same = (
            entry.record.component == task.component.name and entry.record.bundle == task.bundle.manifest.name
        )
        if same and entry.record.key.runtime == task.key.runtime:
            return entry.record.seconds
    if task.key.gpu is not None:
        return None
    return 2.0 + SECONDS_PER_GB * task.weights / 1e9


def _installed() -> RuntimeName:
    """The library that is installed; `UsageError` if both are, since they fit different GPUs."""
    found: list[RuntimeName] = []
    for name in get_args(RuntimeName):
        with contextlib.suppress(BackendError):
            found.append(import_library(name).name)
    if len(found) == 2:
        raise UsageError(
            "TensorRT and TensorRT-RTX are both installed",
            "",
            "Say which: --target local:tensorrt or --target local:tensorrt-rtx",
        )
    if not found:
        raise BackendError(
            "Neither TensorRT nor TensorRT-RTX is installed",
            "",
            "On a PC with a GeForce or RTX GPU run `pip install tensorrt-rtx`; elsewhere install TensorRT",
        )
    return found[0]
