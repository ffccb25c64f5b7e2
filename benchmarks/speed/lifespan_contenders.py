"""Lifespan aging done by agesdk and by the published two passes written plainly on diffusers; every factory
gets a `LifespanJob`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agesdk.lifespan_aging import LifespanAger
from benchmarks.speed.contenders import Work


@dataclass(frozen=True, eq=False)
class LifespanJob:
    """What both do: image uint8 [S, S, 3]; seed of torch's generator, and what it draws by agesdk's names."""

    bundle: Path
    models: Path
    precision: str
    threads: int
    image: np.ndarray
    source_age: int
    target_age: int
    gender: str
    seed: int
    noise: dict[str, np.ndarray]


def agesdk(job: LifespanJob) -> Work:
    """`LifespanAger`; preparing counts."""
    ager = LifespanAger.load(job.bundle, threads=job.threads, precision=job.precision)

    def work() -> np.ndarray:
        person = ager.prepare(job.image)
        result = ager.age(person, job.source_age, job.target_age, job.gender, noise=job.noise)
        return np.asarray(result.image[None])

    return work


def diffusers(job: LifespanJob) -> Work:
    """The two passes as published, in float32."""
    import torch
    from PIL import Image

    from benchmarks.plain_lifespan import PlainPipeline

    torch.set_num_threads(job.threads)
    pipeline = PlainPipeline(job.models)

    def work() -> np.ndarray:
        outcome = pipeline.run(
            Image.fromarray(job.image), job.source_age, job.target_age, job.gender, job.seed
        )
        return outcome.final[None]

    return work


def script_noise(hparams: Mapping[str, Any], gap: int, seed: int) -> dict[str, np.ndarray]:
    """What the published script draws for a gap in years, float32 [1, C, h, w] by agesdk's names."""
    from benchmarks.plain_lifespan import drawn_noise, first_strength, further_passes

    strength = first_strength(hparams, gap)
    order = [("pass1", strength)]
    if hparams["use_swr"] and hparams["use_four_image_swr"]:
        order += further_passes(strength)
    return drawn_noise(seed, [*order, ("pass2", hparams["id_strength"])], chained=False)
