"""``python -m training scorenet``: ScoreNet on latents of real crops, before the denoiser trains."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from agesdk.faces.zones import ZONE_KINDS
from training.checkpoint import latest_state, load_state, new_component, save_component, save_state
from training.config import DataConfig
from training.data import CachedLatents, Samples, SampleSpec, ZoneCrops
from training.precision import channels_last, resolve

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreNetTraining:
    """One run. ``noise``: latents get Gaussian noise of a deviation up to this, so that ScoreNet does not
    live off what a decoder would not show."""

    steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    noise: float = 0.35
    seed: int = 0
    checkpoint_every: int = 250


def run(
    data: DataConfig, out: Path, config: ScoreNetTraining, options: dict[str, Any] | None = None
) -> float:
    """Train or resume; writes the component folder ``out``; returns the mean absolute error on validation
    crops.

    ``data`` names a folder of crops and its latents encoded in advance; ``options`` are those of `ScoreNet`.
    """
    if data.latents is None:
        raise ValueError("ScoreNet trains on latents encoded in advance: set DataConfig.latents")
    crops = ZoneCrops.open(data.folder)
    shape = np.load(Path(data.latents) / "latents.npy", mmap_mode="r").shape
    cache = CachedLatents.open(data.latents, len(crops.crops), shape[2:])
    spec = SampleSpec(shape[2:], (0, 1), (0, 1), (0, 1), posterior=False, targets=False, cycle=False)
    samples = Samples(crops, "train", data, spec, config.seed, cache)
    torch.manual_seed(config.seed)
    net = new_component(
        "ScoreNet", {"latent_channels": shape[2], "zones": len(ZONE_KINDS)} | (options or {})
    ).train()
    channels_last(net)
    fast = resolve("auto", cpu=True) == "bf16"
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    objects = {"net": net, "optimizer": optimizer, "schedule": schedule}
    states = out.parent / f"{out.name}-states"
    latest = latest_state(states)
    start = load_state(latest, objects).step if latest is not None else 0  # type: ignore[arg-type]
    for step in tqdm(
        range(start, config.steps), initial=start, total=config.steps, unit="step", desc="ScoreNet"
    ):
        rng = np.random.default_rng((config.seed, step))
        batch = [samples[step * config.batch_size + n] for n in range(config.batch_size)]
        strength = rng.uniform(0.0, config.noise, (config.batch_size, 1, 1, 1)).astype(np.float32)
        latents = np.stack([b["latents"] for b in batch]) + strength * np.stack([b["noise"] for b in batch])
        zone = torch.from_numpy(np.stack([b["zone"] for b in batch]))
        score = torch.from_numpy(np.stack([b["score"] for b in batch]))
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            predicted = net(torch.from_numpy(latents), zone)
        loss = F.mse_loss(predicted.float(), score)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            save_state(states, step + 1, objects, keep_last=1)  # type: ignore[arg-type]
    net.eval()
    save_component(net, out)
    error = held_out_error(net, crops, cache)
    logger.info("ScoreNet: mean absolute error %.3f on validation crops", error)
    return error


@torch.no_grad()
def held_out_error(net: torch.nn.Module, crops: ZoneCrops, cache: CachedLatents) -> float:
    """Mean absolute error on the plain crops of the validation split; NaN without any."""
    rows = np.flatnonzero((crops.split == "val") & np.isfinite(crops.score))
    errors = []
    for part in np.array_split(rows, max(1, len(rows) // 64)):
        latents = torch.from_numpy(cache.latents[part, 0].astype(np.float32))
        predicted = net(latents, torch.from_numpy(crops.zone[part])).numpy()
        errors.append(np.abs(predicted - crops.score[part]))
    return float(np.concatenate(errors).mean()) if len(rows) else float("nan")


def register(subparsers: Any) -> None:
    """Add ``scorenet`` to the command line."""
    parser = subparsers.add_parser("scorenet", help="train ScoreNet on latents of real crops")
    parser.add_argument("zones", type=Path, metavar="ZONES", help="output of prepare-zones")
    parser.add_argument("latents", type=Path, metavar="LATENTS", help="output of encode")
    parser.add_argument("out", type=Path, metavar="OUT", help="component folder to write")
    parser.add_argument("--steps", type=int, default=ScoreNetTraining.steps)
    parser.add_argument("--seed", type=int, default=ScoreNetTraining.seed)
    parser.set_defaults(run=command)


def command(arguments: argparse.Namespace) -> int:
    """``python -m training scorenet``."""
    data = DataConfig(str(arguments.zones), str(arguments.latents), balance_zones=True)
    run(data, arguments.out, ScoreNetTraining(steps=arguments.steps, seed=arguments.seed))
    return 0
