"""``python -m engines verify BUNDLE``: run the goldens of a bundle on this device.

The first thing to do on a new machine, after a driver or runtime was changed, or with a bundle of unknown
origin: every component is run on its recorded input and must give the recorded output within the bundle's
tolerances.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agesdk.backends import load_engine
from agesdk.bundle import Bundle
from agesdk.goldens import GoldenCheck, check_bundle
from agesdk.precision import PRECISIONS, choose, has_int8_dot_products


def register(subparsers: Any) -> None:
    """Add the ``verify`` command."""
    parser = subparsers.add_parser(
        "verify",
        help="run a bundle's goldens and compare",
        description="Run every component's recorded input on a backend and compare with the recorded output. "
        "Exit code 0: all within tolerance; 1: not; 2: the check could not be run.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle folder")
    parser.add_argument("--backend", default="onnxruntime", help="default: %(default)s")
    parser.add_argument("--provider", help="of onnxruntime (default: cpu)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="what to check (default: with onnxruntime all that the bundle carries, else auto: what runs)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command; 0 if every output is within its tolerance, else 1."""
    bundle = Bundle.open(arguments.bundle)
    load = functools.partial(
        load_engine,
        backend=arguments.backend,
        provider=arguments.provider,
        threads=arguments.threads,
    )
    if arguments.precision is None and arguments.backend == "onnxruntime":
        without = _not_for_this_processor(bundle, arguments.provider)
        checks = check_bundle(bundle, load, without=without)
    else:
        chosen = choose(bundle, arguments.precision or "auto", arguments.backend, arguments.provider)
        checks = check_bundle(chosen, load, every_precision=False)
    passed = all(check.passed for check in checks)
    if arguments.json:
        print(
            json.dumps({"bundle": str(bundle.path), "passed": passed, "checks": _objects(checks)}, indent=2)
        )
        return 0 if passed else 1
    for line in table(checks):
        print(line)
    failed = sorted({check.component for check in checks if not check.passed})
    where = ", ".join(filter(None, (arguments.backend, arguments.provider)))
    print(f"{bundle.path} on {where}: " + (f"FAILED in {', '.join(failed)}" if failed else "passed"))
    return 0 if passed else 1


def _not_for_this_processor(bundle: Bundle, provider: str | None) -> tuple[str, ...]:
    """int8 on a CPU without 8-bit dot products, where ONNX Runtime's products saturate: `choose` never takes
    it there by itself, so it does not count against the bundle."""
    carried = any("int8" in component.precisions for component in bundle.manifest.components.values())
    if provider not in (None, "cpu") or not carried or has_int8_dot_products():
        return ()
    print("int8 is left out: this processor has no 8-bit dot products, it runs fp32", file=sys.stderr)
    return ("int8",)


def table(checks: Sequence[GoldenCheck]) -> list[str]:
    """The checks as lines of text with a heading."""
    rows = [("component", "precision", "output", "max error", "allowed", "mean error", "allowed", "")]
    rows += [
        (
            check.component,
            check.precision,
            check.output,
            f"{check.max_abs:.3g}",
            f"{check.tolerance.max_abs:.3g}",
            f"{check.mean_abs:.3g}",
            f"{check.tolerance.mean_abs:.3g}",
            "ok" if check.passed else "FAILED",
        )
        for check in checks
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]


def _objects(checks: Sequence[GoldenCheck]) -> list[dict[str, Any]]:
    """As JSON: an infinite difference is null."""
    objects = []
    for check in checks:
        values = {**asdict(check), "passed": check.passed}
        for key in ("max_abs", "mean_abs"):
            values[key] = values[key] if math.isfinite(values[key]) else None
        objects.append(values)
    return objects
