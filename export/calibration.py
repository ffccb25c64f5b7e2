"""Real crops for calibrating and judging reduced precision: what the components see when crops are aged.

The crops come from a folder of `python -m training prepare-zones`. They are aged as the runtime ages them, so
every timestep of the bundle's own schedule, both halves of the guidance and both kinds of pictures (a crop,
and the crop with its skin blurred) are among the recorded inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agesdk.backends import Engine, load_engine
from agesdk.backends.base import Tensor
from agesdk.bundle import Bundle
from agesdk.diffusion.schedule import make_schedule
from agesdk.errors import UsageError
from agesdk.faces.zones import ZONE_KINDS, ZONES
from agesdk.timing import Stopwatch
from agesdk.zone_model import ZoneModel
from agesdk.zone_prepared import ZoneCrop, complete, denoiser_inputs

logger = logging.getLogger(__name__)

Feeds = Mapping[str, np.ndarray]

WAVE = 4
"""Crops aged in one batch."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Crops with the score that each is to be aged to, in 0..1."""

    crops: tuple[ZoneCrop, ...]
    targets: tuple[float, ...]


def read_sample(folder: Path, split: str, count: int, zones: Sequence[str], size: int, seed: int) -> Sample:
    """``count`` crops of one split of a prepared folder, zone kinds taking turns, targets spread over 0.05 to
    0.95.

    Raises
    ------
    AgeSDKError
        The folder does not hold prepared crops, or no crop of the split.
    """
    from training.crop_table import centre
    from training.data import ZoneCrops

    data = ZoneCrops.open(folder)
    random = np.random.default_rng(seed)
    usable = (data.split == split) & np.isfinite(data.score)
    rows_by_kind = [
        list(random.permutation(np.flatnonzero(usable & (data.zone == ZONE_KINDS.index(kind)))))
        for kind in zones
    ]
    rows: list[int] = []
    while len(rows) < count and any(rows_by_kind):
        rows += [int(kind.pop()) for kind in rows_by_kind if kind]
    if not rows:
        raise UsageError(f"{folder} has no scored crop of the split {split}", "", "Prepare more faces")
    rows = rows[:count]
    zone_of_kind = {zone.kind: zone for zone in reversed(ZONES)}
    crops = tuple(
        ZoneCrop(
            zone=zone_of_kind[ZONE_KINDS[data.zone[row]]],
            transform=np.eye(2, 3),
            pixels=pixels,
            skin=skin.astype(np.float32) / 255.0,
        )
        for row, pixels, skin in zip(
            rows, centre(data.crops[rows], size), centre(data.masks[rows], size), strict=True
        )
    )
    targets = random.permutation(np.linspace(0.05, 0.95, len(crops)))
    return Sample(crops, tuple(float(target) for target in targets))


def age_sample(model: ZoneModel, sample: Sample, seed: int = 0) -> np.ndarray:
    """The sample's crops aged with the bundle's defaults: uint8 [N, S, S, 3], as the decoder gives them."""
    made = []
    for start in range(0, len(sample.crops), WAVE):
        crops = [fresh(crop) for crop in sample.crops[start : start + WAVE]]
        targets = sample.targets[start : start + WAVE]
        complete(crops, model, Stopwatch())
        before = scores_of(model, crops)
        conditions = [
            model.condition_score(crop.zone.kind, target, score)
            for crop, target, score in zip(crops, targets, before, strict=True)
        ]
        made.append(age_crops(model, crops, conditions, [seed, start]))
    return np.concatenate(made)


def scores_of(model: ZoneModel, crops: Sequence[ZoneCrop]) -> list[float]:
    """Their aging scores in 0..1 as the runtime reads them."""
    complete(crops, model, Stopwatch(), scores_only=True)
    latents = np.stack([crop.mean for crop in crops if crop.mean is not None])
    return model.scores(latents, [crop.zone.kind for crop in crops])


def age_crops(
    model: ZoneModel, crops: Sequence[ZoneCrop], conditions: Sequence[float], seed: Sequence[int]
) -> np.ndarray:
    """Completed crops aged under condition scores with the bundle's defaults: uint8 [N, S, S, 3]."""
    defaults = model.settings.defaults
    schedule = make_schedule(model.settings.scheduler, defaults.steps, defaults.strength)
    shape = model.noise_shape(schedule)
    drawn = np.random.default_rng(seed).standard_normal((len(crops), *shape), dtype=np.float32)
    latents, noise, extra = denoiser_inputs(crops, drawn.swapaxes(0, 1), model.settings)
    kinds = [crop.zone.kind for crop in crops]
    return model.decode(
        model.age(schedule, kinds, conditions, latents, noise, defaults.guidance_scale, extra=extra)
    )


def fresh(crop: ZoneCrop) -> ZoneCrop:
    """The crop without what a model computed of it."""
    return ZoneCrop(crop.zone, crop.transform, crop.pixels, crop.skin)


class Recorder:
    """Loads engines of a bundle that keep what they are fed.

    Attributes
    ----------
    feeds:
        By component, in the order of the calls.
    """

    def __init__(self) -> None:
        self.feeds: dict[str, list[Feeds]] = {}

    def load(self, bundle: Bundle, component: str) -> Engine:
        return _Recorded(load_engine(bundle, component, threads=1), self.feeds.setdefault(component, []))


class _Recorded:
    def __init__(self, engine: Engine, feeds: list[Feeds]) -> None:
        self._engine = engine
        self._feeds = feeds
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self.profile = engine.profile

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._feeds.append({name: np.array(self._engine.to_host(tensor)) for name, tensor in feeds.items()})
        return self._engine.run(feeds)

    def to_device(self, array: np.ndarray) -> Tensor:
        return self._engine.to_device(array)

    def to_host(self, tensor: Tensor) -> np.ndarray:
        return self._engine.to_host(tensor)

    def guide(self, halves: Tensor, scale: float) -> Tensor:
        return self._engine.guide(halves, scale)


def record(bundle: Bundle, sample: Sample) -> tuple[dict[str, list[Feeds]], np.ndarray]:
    """Age the sample with the bundle; what every component was fed, and the aged crops."""
    recorder = Recorder()
    aged = age_sample(ZoneModel(bundle, recorder.load), sample)
    for name, feeds in recorder.feeds.items():
        logger.info("%s: %d recorded calls", name, len(feeds))
    return recorder.feeds, aged


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 pictures in dB; infinite when they are equal."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return float("inf") if error == 0.0 else 10.0 * float(np.log10(255.0**2 / error))
