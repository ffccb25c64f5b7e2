"""Training samples from the folder that ``python -m training prepare-zones`` writes.

A sample is a pure function of (seed, stream, position): which crop, its jitter, the timesteps, noises and
random targets. So any number of processes and workers draw the same global batches, and a resumed run goes on
where the interrupted one stopped without replaying anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from agesdk.faces.skin import blur_inside
from agesdk.faces.zones import CROP_SIZE, ZONE_KINDS
from agesdk.manifest import SchedulerSettings
from training.config import ConfigError, DataConfig, TrainingConfig
from training.crop_table import CropTable, open_pixels
from training.latents import vary

_DARK_SHARE = 0.25


@dataclass(frozen=True)
class ZoneCrops:
    """Prepared crops; pictures and masks are memory-mapped.

    Attributes
    ----------
    crops: uint8 [N, S, S, 3] RGB, right-side crops mirrored to the left, S ≥ 128.
    masks: uint8 [N, S, S], share of bare skin × 255.
    zone: int64 [N], index into `agesdk.faces.zones.ZONE_KINDS`.
    score: float32 [N] in 0..1; NaN where the crop shows too little skin to be scored (never drawn).
    lightness: float32 [N], CIELAB L of the face's skin; NaN where unknown.
    split, side, ancestry: text [N].
    """

    crops: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    zone: NDArray[np.int64]
    score: NDArray[np.float32]
    lightness: NDArray[np.float32]
    split: NDArray[np.str_]
    side: NDArray[np.str_]
    ancestry: NDArray[np.str_]

    @classmethod
    def open(cls, folder: str | Path) -> ZoneCrops:
        """Open a prepared folder; `UsageError` says what is missing or does not fit."""
        folder = Path(folder)
        table = CropTable.read(folder)
        return cls(
            crops=open_pixels(folder, "crops", len(table)),
            masks=open_pixels(folder, "masks", len(table)),
            zone=table.kind_index,
            score=table.score.astype(np.float32),
            lightness=table.lightness.astype(np.float32),
            split=table.split,
            side=table.side,
            ancestry=table.ancestry,
        )


@dataclass(frozen=True)
class CachedLatents:
    """Crops encoded in advance (`training.latents.encode_variants`), memory-mapped; variant 0 is the plain
    crop.

    Attributes
    ----------
    latents, blurred: float16 [N, V, C, h, w], of the crops and of the crops with their skin blurred.
    masks: uint8 [N, V, h, w], share of skin × 255.
    """

    latents: NDArray[np.float16]
    blurred: NDArray[np.float16]
    masks: NDArray[np.uint8]

    @classmethod
    def open(cls, folder: str | Path, count: int, latent_shape: tuple[int, int, int]) -> CachedLatents:
        """Open a folder for ``count`` crops with latents of ``latent_shape``; `ConfigError` if it does not
        fit."""
        folder = Path(folder)
        fix = "Remove the folder and encode the crops again"
        if not (folder / "DONE").exists():
            raise ConfigError(f"{folder} does not hold finished latents", fix=fix)
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("latents", "blurred", "masks")]
        cache = cls(*arrays)
        if len(cache.latents) != count or cache.latents.shape[2:] != latent_shape:
            raise ConfigError(
                f"{folder} holds latents {cache.latents.shape}",
                f"{count} crops and the VAE need [{count}, variants, {', '.join(map(str, latent_shape))}]",
                fix,
            )
        return cache


def sampling_weights(data: ZoneCrops, rows: NDArray[np.int64], config: DataConfig) -> NDArray[np.float64]:
    """How often each of ``rows`` is drawn, relative to the others: float64 [len(rows)]."""
    unknown = sorted(set(config.zone_weights) - set(ZONE_KINDS))
    if unknown:
        raise ConfigError(
            f"data.zone_weights.{unknown[0]} is no zone kind", fix=f"Known are {', '.join(ZONE_KINDS)}"
        )
    by_zone = np.array([config.zone_weights.get(kind, 1.0) for kind in ZONE_KINDS])
    if config.balance_zones:
        by_zone = by_zone / np.maximum(1, np.bincount(data.zone[rows], minlength=len(ZONE_KINDS)))
    weights = by_zone[data.zone[rows]] * (1.0 + (config.old_weight - 1.0) * data.score[rows])
    lightness = data.lightness[rows]
    if config.dark_skin_weight != 1.0 and np.isfinite(lightness).any():
        limit = np.nanquantile(lightness, _DARK_SHARE)
        weights = weights * np.where(lightness <= limit, config.dark_skin_weight, 1.0)
    if not weights.sum() > 0.0:
        raise ConfigError(
            "every crop has the sampling weight 0", "data.zone_weights leaves no zone that is present"
        )
    return np.asarray(weights, np.float64)


@dataclass(frozen=True)
class SampleSpec:
    """What samples hold, besides which crops they are drawn from.

    ``timesteps``, ``target_timesteps`` and ``cycle_timesteps`` are [low, high) spans; ``posterior``: draw
    noise for the VAE's posterior; ``targets`` and ``cycle``: draw what L_score and L_cycle take.
    """

    latent_shape: tuple[int, int, int]
    timesteps: tuple[int, int]
    target_timesteps: tuple[int, int]
    cycle_timesteps: tuple[int, int]
    blur_sigmas: tuple[float, ...] = ()
    blur_sigma: float | None = None
    zone_share: float | None = None
    ethnicity_share: float = 0.0
    posterior: bool = True
    targets: bool = True
    cycle: bool = True

    @classmethod
    def of(
        cls, config: TrainingConfig, latent_shape: tuple[int, int, int], scheduler: SchedulerSettings
    ) -> SampleSpec:
        """The spec of a run; `ConfigError` where a span of timesteps is beyond the schedule."""
        objective, weights = config.objective, [stage.weights for stage in config.stages]
        whole = (0, scheduler.num_train_timesteps)
        timesteps = objective.timesteps or whole
        spans = (timesteps, objective.target_timesteps or timesteps, objective.cycle_timesteps or timesteps)
        for name, span in zip(("timesteps", "target_timesteps", "cycle_timesteps"), spans):
            if span[1] > whole[1]:
                raise ConfigError(
                    f"objective.{name} ends at {span[1]}, but the schedule has {whole[1]} timesteps"
                )
        conditioned = config.model.mode == "conditioned"
        return cls(
            latent_shape,
            *spans,
            blur_sigmas=objective.blur_sigmas,
            blur_sigma=config.model.blur_sigma if conditioned else None,
            zone_share=config.condition.zone_share,
            ethnicity_share=config.condition.ethnicity_share if config.data.ethnicity else 0.0,
            posterior=objective.latents == "sample",
            targets=any(w.score > 0.0 for w in weights)
            or any(stage.adversarial > 0.0 for stage in config.stages),
            cycle=any(w.cycle > 0.0 for w in weights),
        )


class Samples(Dataset[dict[str, Any]]):
    """Position → sample.

    Fields of a sample (a batch stacks them):

    - ``image`` float32 [3, 128, 128] in -1..1; ``blurred`` the same with its skin blurred (conditioned mode);
      or, of
      crops encoded in advance, ``latents`` and ``masked_latents`` float32 [C, h, w];
    - ``mask`` float32 [1, h, w], share of skin per latent pixel;
    - ``zone`` int64, ``score`` float32; ``drop`` bool: under the zone prompt; ``ancestry`` text, empty: not
      named;
    - ``timestep`` int64 and ``noise`` float32 [C, h, w] of L_full and L_zone; ``target`` (random score),
      ``target_timestep``, ``target_noise`` of L_score; ``cycle_target``, ``cycle_timestep``, ``cycle_noise``,
      ``return_timestep``, ``return_noise`` of the two ways of L_cycle; ``posterior_noise``.

    Training samples are varied and drawn by `sampling_weights`; those of other splits are the plain crops in
    turn.
    """

    def __init__(
        self,
        data: ZoneCrops,
        split: str,
        config: DataConfig,
        spec: SampleSpec,
        seed: int,
        cache: CachedLatents | None = None,
    ) -> None:
        self.data, self.spec, self.seed, self.cache = data, spec, seed, cache
        training = split == "train"
        self.stream, self.augmented = 0 if training else 1, training and config.augment
        self.rows = np.flatnonzero((data.split == split) & np.isfinite(data.score))
        if len(self.rows) == 0:
            raise ConfigError(f"{config.folder}/index.csv has no scored crop with split '{split}'")
        weights = sampling_weights(data, self.rows, config)
        uniform = not training or bool(np.all(weights == weights[0]))
        self.cumulative = None if uniform else np.cumsum(weights) / weights.sum()
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    def __getitem__(self, position: int) -> dict[str, Any]:
        rng = self._random(position)
        return self._sample(self.row(position, rng), rng)

    def at_row(self, row: int) -> dict[str, Any]:
        """The sample of a row of the data, with draws that depend on the row only."""
        return self._sample(row, self._random(row))

    def _random(self, position: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, position, self.stream]))

    def _sample(self, row: int, rng: np.random.Generator) -> dict[str, Any]:
        spec = self.spec
        sample: dict[str, Any] = {
            "zone": np.int64(self.data.zone[row]),
            "score": np.float32(self.data.score[row]),
            "drop": np.bool_(spec.zone_share is not None and rng.random() < spec.zone_share),
            "ancestry": str(self.data.ancestry[row]) if rng.random() < spec.ethnicity_share else "",
            "timestep": np.int64(rng.integers(*spec.timesteps)),
        }
        noises = ["noise"]
        if spec.posterior:
            noises.append("posterior_noise")
        if spec.targets:
            sample["target"] = np.float32(rng.random())
            sample["target_timestep"] = np.int64(rng.integers(*spec.target_timesteps))
            noises.append("target_noise")
        if spec.cycle:
            sample["cycle_target"] = np.float32(rng.random())
            sample["cycle_timestep"] = np.int64(rng.integers(*spec.cycle_timesteps))
            sample["return_timestep"] = np.int64(rng.integers(*spec.cycle_timesteps))
            noises += ["cycle_noise", "return_noise"]
        for name in noises:
            sample[name] = rng.standard_normal(spec.latent_shape, dtype=np.float32)
        return sample | (
            self._pictures(row, rng) if self.cache is None else self._cached(row, rng, self.cache)
        )

    def row(self, position: int, rng: np.random.Generator) -> int:
        """Row of the data for a position: a weighted draw, or without weights every row once an epoch."""
        if self.cumulative is not None:
            found = np.searchsorted(self.cumulative, rng.random(), side="right")
            return int(self.rows[min(int(found), len(self.rows) - 1)])
        epoch, place = divmod(position, len(self.rows))
        if self._epoch is None or self._epoch[0] != epoch:
            shuffled = np.random.default_rng((self.seed, self.stream, epoch)).permutation(self.rows)
            self._epoch = (epoch, shuffled)
        return int(self._epoch[1][place])

    def _pictures(self, row: int, rng: np.random.Generator) -> dict[str, Any]:
        spec, crop, mask = self.spec, self.data.crops[row], self.data.masks[row]
        sigma = spec.blur_sigma
        if self.augmented:
            mirror = bool(rng.random() < 0.5) and self.data.side[row] == "centre"
            crop, skin = vary(np.asarray(crop), np.asarray(mask), rng, mirror)
            sigma = None if sigma is None else spec.blur_sigmas[rng.integers(len(spec.blur_sigmas))]
        else:
            margin = (crop.shape[0] - CROP_SIZE) // 2
            inner = slice(margin, margin + CROP_SIZE)
            crop, skin = (
                np.ascontiguousarray(crop[inner, inner]),
                mask[inner, inner].astype(np.float32) / 255.0,
            )
        size = spec.latent_shape[1:][::-1]
        pictures: dict[str, Any] = {
            "image": to_float(crop),
            "mask": cv2.resize(skin, size, interpolation=cv2.INTER_AREA)[None],
        }
        if sigma is not None:
            pictures["blurred"] = to_float(blur_inside(crop, skin, sigma))
        return pictures

    def _cached(self, row: int, rng: np.random.Generator, cache: CachedLatents) -> dict[str, Any]:
        variant = int(rng.integers(cache.latents.shape[1])) if self.augmented else 0
        found: dict[str, Any] = {
            "latents": cache.latents[row, variant].astype(np.float32),
            "mask": cache.masks[row, variant].astype(np.float32)[None] / 255.0,
        }
        if self.spec.blur_sigma is not None:
            found["masked_latents"] = cache.blurred[row, variant].astype(np.float32)
        return found


class PositionBatches:
    """Batches of positions of one process.

    A micro-batch of ``size`` samples per process takes the next ``processes * size`` positions; process
    ``rank`` gets its part of them.
    """

    def __init__(self, start: int, sizes: Sequence[int], rank: int = 0, processes: int = 1) -> None:
        self.start, self.sizes, self.rank, self.processes = start, sizes, rank, processes

    def __iter__(self) -> Iterator[list[int]]:
        position = self.start
        for size in self.sizes:
            first = position + self.rank * size
            yield list(range(first, first + size))
            position += self.processes * size

    def __len__(self) -> int:
        return len(self.sizes)


def to_float(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [S, S, 3] → float32 [3, S, S] in -1..1."""
    return np.ascontiguousarray(crop.transpose(2, 0, 1)).astype(np.float32) / 127.5 - 1.0
