"""The case of lifespan aging for `benchmarks.speed.compare`."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from pathlib import Path

from agesdk.bundle import Bundle
from agesdk.errors import UsageError
from benchmarks.speed.lifespan_contenders import LifespanJob, script_noise
from benchmarks.speed.models import check_pair, export_bundle
from benchmarks.speed.photos import portrait

CONTENDERS = "benchmarks.speed.lifespan_contenders"
PEERS = ("diffusers",)
DEFAULT_PEERS = PEERS

SIZES = {"tiny": 2.5e9, "sdxl": 46.0e9}
"""Bytes of memory that agesdk and the peer take together. The peer holds two UNets of 10.3 GB in float32,
with and without LoRA, as the published script does; agesdk one."""

SOURCE_AGE, TARGET_AGE, GENDER, SEED = 30, 70, "female", 5


def models(arguments: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Model tree and bundle: those given, or made in the folder where they are not there yet."""
    tree = arguments.checkpoint or folder / "models"
    check_pair(arguments)
    if not tree.exists():
        if arguments.checkpoint is not None or arguments.size == "tiny":
            raise UsageError(
                f"{tree} does not exist",
                "this size has no generator" if arguments.checkpoint is None else "",
                "Give a tree of Cradle2Cane's models with --checkpoint",
            )
        if arguments.clip_vocab is None:
            raise UsageError("The full size needs CLIP's vocabulary", fix="Give it with --clip-vocab")
        from benchmarks.fullsize_cradle2cane import write_tree

        print(f"making a model tree in {tree}", file=sys.stderr)
        write_tree(tree, arguments.clip_vocab)
    bundle = arguments.bundle or folder / "bundle"
    if not bundle.exists():
        export_bundle("cradle2cane", tree, bundle, "--clip-pixel-range", "0..255", "--ages", "30:70")
    return tree, bundle


def job(bundle: Bundle, checkpoint: Path, arguments: argparse.Namespace) -> LifespanJob:
    """The packaged portrait, forty years older."""
    if bundle.manifest.kind != "lifespan-aging":
        raise UsageError(f"{bundle.path} is no lifespan-aging bundle", f"its kind is {bundle.manifest.kind}")
    if arguments.steps is not None:
        raise UsageError("--steps is for zone", "the published method has four", "Leave it out")
    import yaml

    settings = checkpoint / "Cradle2Cane/hparams.yml"
    try:
        hparams = yaml.safe_load(settings.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"{settings} can not be read", str(error), "Give a tree of Cradle2Cane's models"
        ) from None
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # torch's memory ends with it
            noise = pool.apply(script_noise, (hparams, TARGET_AGE - SOURCE_AGE, SEED))
    except (KeyError, TypeError) as error:
        raise UsageError(f"{settings} is not complete", f"{type(error).__name__}: {error}") from None
    return LifespanJob(
        bundle=bundle.path,
        models=checkpoint,
        precision=arguments.precision,
        threads=arguments.threads,
        image=portrait(0.5),
        source_age=SOURCE_AGE,
        target_age=TARGET_AGE,
        gender=GENDER,
        seed=SEED,
        noise=noise,
    )


def describe(job: LifespanJob) -> str:
    """What is done, for the table's title."""
    return f"two passes from {job.source_age} to {job.target_age} years, picture to picture"
