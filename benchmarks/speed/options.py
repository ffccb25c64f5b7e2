"""Arguments that several commands share, and their checks."""

from __future__ import annotations

import argparse
from pathlib import Path

from agesdk.bundle import Bundle, embedded_bundle
from agesdk.errors import UsageError
from agesdk.manifest import SETTINGS_OF_KIND


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """``--threads`` and ``--repeat``."""
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="CPU threads (default: %(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=10, metavar="N", help="samples (default: %(default)s)")


def check_counts(arguments: argparse.Namespace, **least: int) -> None:
    """Raise `UsageError` where an argument that is given is below its least value."""
    for name, low in least.items():
        value = getattr(arguments, name)
        if value is not None and value < low:
            raise UsageError(f"--{name.replace('_', '-')} {value} is too small", fix=f"Give {low} or more")


def open_bundle(name: Path | None, kind: str = "zone-aging") -> Bundle:
    """A bundle folder, an embedded bundle by its kind, or the embedded one of ``kind``."""
    if name is None:
        return Bundle.open(embedded_bundle(kind))
    if str(name) in SETTINGS_OF_KIND and not name.exists():
        return Bundle.open(embedded_bundle(str(name)))
    return Bundle.open(name)
