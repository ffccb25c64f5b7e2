"""Zone aging done by agesdk, by diffusers zone by zone and batched, and by OpenVINO on agesdk's graphs.

Every factory gets a `ZoneJob` and returns the work: the same picture, face, zones, prompts and noise, from
the photograph to the photograph with all zones pasted; what it gives back are the crops that the model made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agesdk.bundle import Bundle, TextCondition, ZoneAgingSettings
from agesdk.diffusion.prompts import full_prompt
from agesdk.errors import UsageError
from agesdk.faces.frames import extract_crop
from agesdk.faces.paste import add_change, matched_change, missing_grain
from agesdk.faces.types import Face
from agesdk.faces.zones import ZONES
from agesdk.imaging import Picture
from agesdk.precision import choose
from agesdk.waves import make_waves
from agesdk.zone_aging import ZoneAger
from agesdk.zone_model import ZoneModel
from agesdk.zone_prepared import ZoneCrop, take_crops
from benchmarks.speed.contenders import Work
from benchmarks.speed.openvino_engine import OpenVinoEngine


@dataclass(frozen=True, eq=False)
class ZoneJob:
    """What all contenders do.

    Attributes
    ----------
    image, face:
        uint8 [H, W, 3], and the face in it.
    targets:
        Score in 0..1 by zone name; only zones that can be treated.
    seeds, noise:
        By zone name: of torch's generator, and the noise float32 [N, C, h, w] that it draws.
    """

    bundle: Path
    checkpoint: Path
    precision: str
    threads: int
    image: np.ndarray
    face: Face
    targets: dict[str, float]
    steps: int
    strength: float
    seeds: dict[str, int]
    noise: dict[str, np.ndarray]


def agesdk(job: ZoneJob) -> Work:
    """`ZoneAger`, face given; preparing counts."""
    ager = ZoneAger.load(job.bundle, threads=job.threads, precision=job.precision)
    return _with_ager(ager, job)


def openvino(job: ZoneJob) -> Work:
    """The same code over OpenVINO."""
    bundle = choose(Bundle.open(job.bundle, kind="zone-aging"), job.precision, "onnxruntime", "cpu")
    model = ZoneModel(bundle, lambda view, name: OpenVinoEngine(view, name, job.threads))
    return _with_ager(ZoneAger(model, _no_analyzer), job)


def diffusers(job: ZoneJob) -> Work:
    """`StableDiffusionImg2ImgPipeline`, one zone after the other."""
    return _with_diffusers(job, batched=False)


def diffusers_batched(job: ZoneJob) -> Work:
    """`StableDiffusionImg2ImgPipeline`, zones that do not overlap in one call."""
    return _with_diffusers(job, batched=True)


def draw_noise(seeds: Mapping[str, int], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What diffusers draws from torch's generator for one picture: an array [1, C, h, w] after the other."""
    import torch

    noise = {}
    for name, seed in seeds.items():
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randn((1, *shape[1:]), generator=generator) for _ in range(shape[0])]
        noise[name] = torch.cat(drawn).numpy()
    return noise


def _with_ager(ager: ZoneAger, job: ZoneJob) -> Work:
    def work() -> np.ndarray:
        prepared = ager.prepare(job.image, job.face)
        result = ager.age(prepared, job.targets, steps=job.steps, strength=job.strength, noise=job.noise)
        return np.stack([_made(result.zones[name].crop) for name in job.targets])

    return work


def _with_diffusers(job: ZoneJob, batched: bool) -> Work:
    """As its users write it: crops, pipeline, paste; the paste is agesdk's, so that pictures can be
    compared."""
    import torch
    from diffusers import StableDiffusionImg2ImgPipeline
    from PIL import Image

    torch.set_num_threads(job.threads)
    pipeline: Any = StableDiffusionImg2ImgPipeline.from_pretrained(
        job.checkpoint,
        dtype=torch.float32,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    settings = Bundle.open(job.bundle, kind="zone-aging").settings
    assert isinstance(settings, ZoneAgingSettings)
    condition, guidance = settings.condition, settings.defaults.guidance_scale
    if not isinstance(condition, TextCondition) or settings.mode != "plain":
        raise UsageError(
            f"diffusers can not run {job.bundle}", "it has no text encoder", "Compare a --size of diffusers"
        )

    def work() -> np.ndarray:
        crops, _ = take_crops(Picture(job.image), job.face, settings.zones, settings.crop_size)
        crops = {name: crops[name] for name in job.targets}
        waves = make_waves({name: crop.transform for name, crop in crops.items()}, settings.crop_size)
        groups = waves if batched else [[name] for wave in waves for name in wave]
        picture = job.image.copy()
        made: dict[str, np.ndarray] = {}
        for names in groups:
            sources = [extract_crop(picture, crops[name].transform, settings.crop_size) for name in names]
            output = pipeline(
                prompt=[full_prompt(condition, crops[n].zone.kind, job.targets[n], None) for n in names],
                image=[Image.fromarray(source) for source in sources],
                strength=job.strength,
                num_inference_steps=job.steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(job.seeds[name]) for name in names],
            )
            for name, source, result in zip(names, sources, output.images):
                made[name] = np.asarray(result)
                _paste(picture, crops[name], source, made[name])
        return np.stack([made[name] for name in job.targets])

    return work


def _paste(picture: np.ndarray, crop: ZoneCrop, source: np.ndarray, result: np.ndarray) -> None:
    mask = crop.paste_mask
    difference = matched_change(result, source, mask)
    difference += missing_grain(result, source, mask, seed=ZONES.index(crop.zone))
    add_change(picture, difference, mask, crop.transform)


def _made(crop: np.ndarray | None) -> np.ndarray:
    assert crop is not None
    return crop


def _no_analyzer() -> Any:
    raise AssertionError("the face is given")
