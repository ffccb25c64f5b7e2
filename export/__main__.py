"""``python -m export``: make bundles."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from agesdk.errors import AgeSDKError

COMMANDS = ("ldla", "cradle2cane", "face_analysis", "convert", "islands", "calibrate", "quality")
"""Modules of this package with ``register(subparsers)``; each sets ``run(arguments) -> int`` on its parser.
They import torch and the like only when they run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns
    -------
    int
        0 when the bundle was written; 2, with one sentence or two on stderr, when it was not; 130 when
        interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m export", description="Make agesdk bundles.")
    parser.add_argument("--verbose", action="store_true", help="log what is being done")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"export.{name}").register(subparsers)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if arguments.verbose:
        logging.getLogger("export").setLevel(logging.INFO)
    try:
        return int(arguments.run(arguments))
    except AgeSDKError as error:
        print(error, file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"{error}. Install what the export needs: pip install -e '.[export]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; nothing was written.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
