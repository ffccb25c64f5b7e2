"""Command-line glue of the small model's parts: ``vae``, ``encode``, ``refine-decoder``, ``calibrate``.

The work is in `training.train_vae`, `training.latents`, `training.refine_decoder` and
`training.calibrate_run`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any


def register(subparsers: Any) -> None:
    """Add the commands to the command line."""
    vae = subparsers.add_parser("vae", help="train the small autoencoder")
    vae.add_argument("faces", type=Path, metavar="FACES_DIR", help="folder with index.csv and pictures")
    vae.add_argument("out", type=Path, metavar="OUT", help="folder to write: vae/ and the training state")
    vae.add_argument("--steps", type=int, help="optimiser steps (default: the recipe's)")
    vae.add_argument("--seed", type=int, default=0)
    vae.set_defaults(run=train_vae)

    encode = subparsers.add_parser("encode", help="encode varied zone crops in advance")
    encode.add_argument("zones", type=Path, metavar="ZONES", help="output of prepare-zones")
    encode.add_argument("vae", type=Path, metavar="VAE", help="component folder of the small autoencoder")
    encode.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    encode.add_argument("--variants", type=int, default=6, help="variants of each crop (default %(default)s)")
    encode.add_argument("--processes", type=int, default=1, help="encoding processes (default %(default)s)")
    encode.set_defaults(run=encode_crops)

    refine = subparsers.add_parser(
        "refine-decoder", help="make the small decoder crisper, with latents unchanged"
    )
    refine.add_argument("zones", type=Path, metavar="ZONES", help="output of prepare-zones")
    refine.add_argument("vae", type=Path, metavar="VAE", help="component folder of the small autoencoder")
    refine.add_argument("out", type=Path, metavar="OUT", help="component folder to write")
    refine.add_argument("--steps", type=int, help="optimiser steps (default: the recipe's)")
    refine.set_defaults(run=refine_decoder)

    calibrate = subparsers.add_parser(
        "calibrate", help="measure a run's checkpoint and write its calibration"
    )
    calibrate.add_argument("output", type=Path, metavar="RUN", help="output folder of a finished ldla run")
    calibrate.add_argument(
        "--crops", type=int, default=24, help="validation crops a zone (default %(default)s)"
    )
    calibrate.add_argument(
        "--vae", type=Path, help="component folder that replaces the checkpoint's VAE first"
    )
    calibrate.set_defaults(run=calibrate_run)


def train_vae(arguments: argparse.Namespace) -> int:
    """``python -m training vae``."""
    from training.train_vae import VAEConfig, run

    steps = {} if arguments.steps is None else {"steps": arguments.steps}
    run(arguments.faces, arguments.out, VAEConfig(seed=arguments.seed, **steps))
    return 0


def encode_crops(arguments: argparse.Namespace) -> int:
    """``python -m training encode``."""
    from training.autoencoder import SmallVAE
    from training.checkpoint import CheckpointError, load_component
    from training.latents import encode_variants

    vae = load_component(arguments.vae)
    if not isinstance(vae, SmallVAE):
        raise CheckpointError(
            f"{arguments.vae} holds {type(vae).__name__}", "only a SmallVAE is encoded in advance"
        )
    encode_variants(arguments.zones, vae, arguments.out, arguments.variants, processes=arguments.processes)
    return 0


def refine_decoder(arguments: argparse.Namespace) -> int:
    """``python -m training refine-decoder``."""
    from training.autoencoder import SmallVAE
    from training.checkpoint import CheckpointError, load_component, save_component
    from training.refine_decoder import RefineConfig, refine

    vae = load_component(arguments.vae)
    if not isinstance(vae, SmallVAE):
        raise CheckpointError(f"{arguments.vae} holds {type(vae).__name__}", "only a SmallVAE can be refined")
    steps = {} if arguments.steps is None else {"steps": arguments.steps}
    state = arguments.out.parent / f"{arguments.out.name}-state.pt"
    refined = refine(arguments.zones, vae, state, RefineConfig(**steps))
    if os.environ.get("RANK", "0") == "0":
        save_component(refined, arguments.out)
    return 0


def calibrate_run(arguments: argparse.Namespace) -> int:
    """``python -m training calibrate``."""
    from training.calibrate_run import calibrate

    calibrate(arguments.output, arguments.crops, arguments.vae)
    return 0
