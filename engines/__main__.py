"""``python -m engines``: the command line of this package."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from agesdk.errors import AgeSDKError

COMMANDS: tuple[str, ...] = ("build", "list_engines", "clean", "inspect_engine", "verify")
"""Modules of this package with ``register(subparsers)``; each sets ``run(arguments) -> int`` on its parser.
They import TensorRT and the like only when they run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns
    -------
    int
        0 done; 1 a check that did not pass; 2, with one sentence or two on stderr, what could not be done;
        130 interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m engines", description="Compile and verify bundles.")
    parser.add_argument("--verbose", action="store_true", help="log what is being done")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"engines.{name}").register(subparsers)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if arguments.verbose:
        logging.getLogger("engines").setLevel(logging.INFO)
    try:
        return int(arguments.run(arguments))
    except AgeSDKError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; nothing half-written is left behind.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
