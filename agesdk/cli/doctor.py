"""``agesdk doctor``: what this machine can run, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from agesdk.cli.common import Commands, add_output_options, say, say_json

if TYPE_CHECKING:
    from agesdk.doctor import Report

EXIT_REQUIREMENT = 1


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="what this machine can run, and what is missing",
        description="Look at the machine and try every way to run a bundle. The exit code is 1 where "
        "something that was asked for with --require can not work.",
    )
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="NAME",
        help="cpu, cuda, tensorrt or tensorrt-rtx (providers of ONNX Runtime), native-tensorrt or "
        "native-tensorrt-rtx (the backend tensorrt); may be repeated",
    )
    add_output_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from agesdk.backends.base import did_you_mean, listed
    from agesdk.doctor import REQUIREMENTS, diagnose
    from agesdk.errors import UsageError

    for name in options.require:
        if name not in REQUIREMENTS:
            raise UsageError(
                f"{name!r} can not be required",
                f"what can is {listed(REQUIREMENTS)}",
                did_you_mean(name, REQUIREMENTS),
            )
    report = diagnose(options.require)
    say(options, as_text(report))
    say_json(options, {"ok": report.ok, **asdict(report)})
    if options.quiet:
        for finding in report.findings:
            if finding.level == "problem":
                print(f"agesdk: {finding}", file=sys.stderr)
    return 0 if report.ok else EXIT_REQUIREMENT


def as_text(report: Report) -> str:
    """The report for people: facts, what works, and findings, the worst first."""
    system, jetson = report.system, report.jetson
    lines = [
        f"system     {system.system}, {system.machine}",
        f"python     {system.python} ({system.executable})",
        f"processor  {system.cpu or 'unknown'}, {system.cores} cores: "
        f"{', '.join(system.cpu_features) or 'no known features'}",
        f"memory     {_gib(system.memory_free)} free of {_gib(system.memory_total)}",
        f"disk       {_gib(system.disk_free)} free at {system.disk_folder}",
    ]
    if jetson is not None:
        lines.append(
            f"jetson     {jetson.model or 'unknown module'}, JetPack {jetson.jetpack or 'unknown'} "
            f"(Jetson Linux {jetson.l4t or 'unknown'}), compute capability {jetson.compute_capability or '?'}"
        )
        lines.append(f"wheels     {jetson.wheel_index or 'no index is known for this JetPack'}")
    for gpu in report.nvidia.gpus:
        total = "shared memory" if gpu.memory_total is None else f"{_gib(gpu.memory_free)} free of "
        total += "" if gpu.memory_total is None else _gib(gpu.memory_total)
        lines.append(
            f"gpu        {gpu.name}, compute capability {gpu.compute_capability}, {total}, "
            f"driver {gpu.driver}, CUDA up to {report.nvidia.driver_cuda or 'unknown'}"
        )
    if not report.nvidia.gpus and jetson is None:
        lines.append("gpu        none found")
    lines.append(f"packages   {', '.join(f'{name} {version}' for name, version in report.packages.items())}")
    for bundle in report.bundles:
        state = (
            "damaged" if bundle.finding else f"{bundle.name} {bundle.version}, {bundle.megabytes} MB, intact"
        )
        lines.append(f"bundle     {bundle.kind}: {state}")
    kept = ", ".join(f"{name} {size} MB" for name, size in report.cache.megabytes.items())
    lines.append(f"cache      {report.cache.folder}: {kept or 'empty'}")
    engines = report.engines
    lines.append(
        f"engines    {engines.count}, {engines.megabytes} MB, {len(engines.stale)} of them not usable here"
    )
    lines.append("")
    lines += [
        f"{'works' if trial.works else '-':6} {trial.name:20} {trial.detail}" for trial in report.trials
    ]
    if report.findings:
        lines.append("")
        lines += [f"{finding.level}: {finding}" for finding in report.findings]
    return "\n".join(lines)


def _gib(size: int | None) -> str:
    return "?" if size is None else f"{size / 2**30:.1f} GiB"
