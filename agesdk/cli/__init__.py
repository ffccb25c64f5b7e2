"""The ``agesdk`` command: its arguments, its exit codes, and how errors reach the user.

Exit codes: 0 done; 1 the work failed (a damaged bundle, a backend that does not start, a result that can not
be written); 2 the command or its input is wrong (arguments, zone, target, picture, face); 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence

from agesdk import __version__
from agesdk.errors import AgeSDKError, Cancelled, FaceError, ImageError, TargetError, UsageError, ZoneError

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

_BAD_INPUT = (UsageError, ZoneError, TargetError, ImageError, FaceError)
_EXIT_CODES = "exit codes: 0 done, 1 the work failed, 2 wrong arguments or unusable picture, 130 interrupted"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; arguments default to those of the process."""
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_BAD_INPUT
    # OpenCV logs what a decoder dislikes to stderr; the typed error says it in a sentence.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    _log_to_stderr(logging.ERROR if options.quiet else logging.INFO)
    try:
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _fail(options, "Interrupted.", "Cancelled", EXIT_INTERRUPTED)
    except Cancelled as error:
        return _fail(options, str(error), "Cancelled", EXIT_INTERRUPTED)
    except AgeSDKError as error:
        code = EXIT_BAD_INPUT if isinstance(error, _BAD_INPUT) else EXIT_FAILED
        return _fail(options, str(error), type(error).__name__, code)
    except BrokenPipeError:
        # The reader of a pipe is gone: nobody is left to tell, and the flush at exit must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; every command sets ``run`` to its function."""
    from agesdk.cli import age, analyze, bundle, demo, doctor, lifespan

    parser = argparse.ArgumentParser(
        prog="agesdk",
        description="Age a face, zone by zone or as a whole, on this machine.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"agesdk {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (age, lifespan, analyze, demo, doctor, bundle):
        module.add_parser(commands)
    return parser


class _Once(logging.Filter):
    """Lets each message through once: the demo ages one face twice, and a zone is skipped twice."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message is new."""
        message = record.getMessage()
        fresh = message not in self._seen
        self._seen.add(message)
        return fresh


def _log_to_stderr(level: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("agesdk: %(message)s"))
    handler.addFilter(_Once())
    logger = logging.getLogger("agesdk")
    logger.handlers = [handler]
    logger.setLevel(level)


def _fail(options: argparse.Namespace, message: str, kind: str, code: int) -> int:
    print(f"agesdk: {message}", file=sys.stderr)
    if getattr(options, "json", False):
        print(json.dumps({"error": {"type": kind, "message": message}}))
    return code
