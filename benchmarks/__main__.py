"""``python -m benchmarks``: one subcommand per benchmark, each imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from agesdk.errors import AgeSDKError


@dataclass(frozen=True)
class Command:
    """A subcommand: `module` has ``add_arguments(parser)`` and ``run(arguments) -> int``."""

    module: str
    summary: str


COMMANDS = {
    "compare": Command(
        "benchmarks.speed.compare",
        "agesdk beside diffusers or OpenVINO: speed, memory, and the difference of the pictures",
    ),
    "engines": Command(
        "benchmarks.speed.engine_builds",
        "time, size and memory of compiling a bundle's engines",
    ),
    "latency": Command(
        "benchmarks.speed.latency",
        "where the time of a run goes: stages, networks, first and later runs, memory, start-up",
    ),
    "lifespan": Command(
        "benchmarks.lifespan",
        "time and peak memory of a lifespan-aging bundle, and what each option changes in the picture",
    ),
    "lifespan-photo": Command(
        "benchmarks.lifespan_photo",
        "alignment of the square that is aged, and seam and tint where it is blended into its photograph",
    ),
    "quality-zone": Command(
        "benchmarks.quality.command",
        "how good a zone-aging bundle is: wrinkles against targets, judge, identity, age, Fréchet distance",
    ),
    "report": Command(
        "benchmarks.speed.report",
        "render records again: tables, plots, and docs/benchmarks.md",
    ),
    "roofline": Command(
        "benchmarks.speed.roofline",
        "the networks beside what the machine could do at most, in arithmetic and memory",
    ),
    "scaling": Command(
        "benchmarks.speed.scaling",
        "growth of time and memory over batch, zones, steps, picture size, ages and calls",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns
    -------
    int
        0 when the measurement was made, 1 when it was interrupted, 2 with one line on stderr when it could
        not be made.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure agesdk.")
    parser.add_argument("--verbose", action="store_true", help="log what is being done")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.summary, description=_capitalised(command.summary) + ".")
        if name in words:
            importlib.import_module(command.module).add_arguments(sub)
    arguments = parser.parse_args(words)
    arguments.words = words
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        return int(importlib.import_module(COMMANDS[arguments.command].module).run(arguments))
    except AgeSDKError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    sys.exit(main())
