"""``python -m training``: the command line of the training package."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from agesdk.errors import AgeSDKError

COMMANDS: dict[str, tuple[str, str]] = {
    "prepare-zones": ("training.zones", "zone crops and aging scores from pictures with ages"),
    "ldla": ("training.ldla", "train a zone-aging model from a Stable Diffusion folder or from scratch"),
    "vae": ("training.small_commands", "train the small autoencoder"),
    "encode": ("training.small_commands", "encode varied zone crops in advance, for the small model"),
    "refine-decoder": ("training.small_commands", "make the small decoder crisper, with latents unchanged"),
    "scorenet": ("training.train_scorenet", "train ScoreNet on latents of real crops"),
    "calibrate": ("training.small_commands", "measure a run's checkpoint and write its calibration"),
    "judge": ("training.judge", "train the judge that measures reached scores"),
    "reference-ldla": ("training.reference", "the whole recipe of the embedded bundle, resumable"),
}
"""Command → module with ``register(subparsers)``, and its help; a module is imported when its command is
used."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (2: wrong usage, 1: a training error)."""
    arguments_list = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m training", description="Training of agesdk's models.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = COMMANDS[arguments_list[0]][0] if arguments_list[:1] and arguments_list[0] in COMMANDS else None
    if chosen is not None:
        importlib.import_module(chosen).register(subparsers)
    for name, (module, text) in COMMANDS.items():
        if module != chosen:
            subparsers.add_parser(name, help=text)
    arguments = parser.parse_args(arguments_list)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        return int(arguments.run(arguments) or 0)
    except AgeSDKError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
