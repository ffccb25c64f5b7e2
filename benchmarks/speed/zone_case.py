"""The case of zone aging for `benchmarks.speed.compare`."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from pathlib import Path

from agesdk.bundle import Bundle, ZoneAgingSettings
from agesdk.diffusion.schedule import make_schedule
from agesdk.errors import UsageError
from agesdk.faces.analyzer import FaceAnalyzer, select_face
from agesdk.imaging import Picture
from agesdk.zone_prepared import take_crops
from benchmarks import fullsize
from benchmarks.speed.models import check_pair, export_bundle
from benchmarks.speed.photos import portrait
from benchmarks.speed.zone_contenders import ZoneJob, draw_noise

CONTENDERS = "benchmarks.speed.zone_contenders"
PEERS = ("diffusers", "diffusers-batched", "openvino")
DEFAULT_PEERS = ("diffusers", "diffusers-batched")

SIZES = {"tiny": 1.5e9, "sd15": 11.0e9}
"""Bytes of memory that agesdk and a peer take together: weights in float32 twice, activations, libraries."""

SCORE, SEED = 0.7, 11


def models(arguments: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Checkpoint and bundle: those given, or made in the folder where they are not there yet."""
    checkpoint = arguments.checkpoint or folder / "checkpoint"
    bundle = arguments.bundle or folder / "bundle"
    check_pair(arguments)
    if not checkpoint.exists():
        if arguments.checkpoint is not None:
            raise UsageError(f"{checkpoint} does not exist", fix="Make it with python -m benchmarks.fullsize")
        print(f"making a checkpoint in {checkpoint}", file=sys.stderr)
        size: fullsize.Size = "sd15" if arguments.size == "sd15" else "tiny"
        fullsize.write_checkpoint(size, checkpoint, arguments.clip_vocab)
    if not bundle.exists():
        export_bundle("ldla", checkpoint, bundle)
    return checkpoint, bundle


def job(bundle: Bundle, checkpoint: Path, arguments: argparse.Namespace) -> ZoneJob:
    """All zones of the packaged portrait at one megapixel."""
    settings = bundle.settings
    if not isinstance(settings, ZoneAgingSettings):
        raise UsageError(f"{bundle.path} is no zone-aging bundle", f"its kind is {bundle.manifest.kind}")
    image = portrait(1.0)
    face = select_face(FaceAnalyzer.load(threads=arguments.threads).detect(image))
    crops, _ = take_crops(Picture(image), face, settings.zones, settings.crop_size)
    steps = settings.defaults.steps if arguments.steps is None else arguments.steps
    schedule = make_schedule(settings.scheduler, steps, settings.defaults.strength)
    side = settings.crop_size // settings.vae_scale_factor
    shape = (2 + schedule.noisy_steps, settings.latent_channels, side, side)
    seeds = {name: SEED + index for index, name in enumerate(crops)}
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # torch's memory ends with it
        noise = pool.apply(draw_noise, (seeds, shape))
    return ZoneJob(
        bundle=bundle.path,
        checkpoint=checkpoint,
        precision=arguments.precision,
        threads=arguments.threads,
        image=image,
        face=face,
        targets=dict.fromkeys(crops, SCORE),
        steps=steps,
        strength=settings.defaults.strength,
        seeds=seeds,
        noise=noise,
    )


def describe(job: ZoneJob) -> str:
    """What is done, for the table's title."""
    return (
        f"{len(job.targets)} zones, {int(job.steps * job.strength)} steps each, from photograph to photograph"
    )
