"""What a run looks like from outside: losses on held-out crops, and grids of aged crops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from agesdk.diffusion.schedule import make_schedule
from agesdk.faces.zones import ZONE_KINDS
from agesdk.manifest import ZoneAgingDefaults
from training.config import ReportConfig
from training.data import Samples
from training.models import Models
from training.sampling import image_to_image


def prepare_batch(
    batch: Mapping[str, Any], models: Models, device: torch.device, latents: str
) -> dict[str, Any]:
    """Move a batch to the device and add ``latents`` (drawn, or the mean) and ``masked_latents``."""
    ready = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
    if "image" in ready:
        mean, std = models.vae.encode(ready["image"])
        ready["latents"] = mean + std * ready["posterior_noise"] if latents == "sample" else mean
    if "blurred" in ready:
        ready["masked_latents"] = models.vae.encode(ready["blurred"])[0]
    return ready


@torch.no_grad()
def validation_losses(
    models: Models, samples: Samples, stage: int, batches: int, device: torch.device, latents: str
) -> dict[str, float]:
    """Mean loss terms on ``batches`` batches of held-out crops under a stage's weights, the same draws every
    time."""
    batch_size = models.objective.stages[stage].batch_size
    sums: dict[str, float] = {}
    for index in range(batches):
        positions = range(index * batch_size, (index + 1) * batch_size)
        batch = default_collate([samples[position] for position in positions])
        ready = prepare_batch(batch, models, device, latents)
        terms, _ = models.objective(ready, stage, cycle=True)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value) / batches
    return sums


def age_batch(
    models: Models, batch: Mapping[str, Any], score: Tensor, inference: ZoneAgingDefaults
) -> Tensor:
    """Latents of a prepared batch, [B, C, h, w], moved to ``score`` [B] by image-to-image sampling (DDIM)."""
    objective, zone = models.objective, batch["zone"]

    def predict(noisy: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        hidden = objective.condition(zone, condition)
        return objective.predict(noisy, timestep, hidden, batch.get("masked_latents"), batch["mask"])

    schedule = make_schedule(models.scheduler, inference.steps, inference.strength)
    noise, scale = batch["noise"], inference.guidance_scale
    return image_to_image(predict, schedule, batch["latents"], noise, score, scale)


@torch.no_grad()
def validation_grid(
    models: Models, samples: Samples, report: ReportConfig, inference: ZoneAgingDefaults, device: torch.device
) -> NDArray[np.uint8]:
    """One row a held-out crop: source, round trip of the VAE, and the crop at each target; uint8 [H, W, 3]
    RGB.

    Conditioned models paste the change only (source + mask · (decoded − round trip)), as the runtime does.
    """
    count = min(report.grid_crops, len(samples.rows))
    spread = np.linspace(0, len(samples.rows) - 1, count).astype(int)
    batch = prepare_batch(default_collate([samples[int(i)] for i in spread]), models, device, "mean")
    latents, zone, mask = batch["latents"], batch["zone"], batch["mask"]
    round_trip = models.vae.decode(latents)
    source = batch.get("image", round_trip)
    columns = [source, round_trip]
    pasted_mask = torch.nn.functional.interpolate(mask, size=source.shape[2:], mode="bilinear")
    for target in report.grid_targets:
        score = torch.full((count,), target, device=device)
        picture = models.vae.decode(age_batch(models, batch, score, inference))
        if models.objective.conditioned:
            picture = source + pasted_mask * (picture - round_trip)
        columns.append(picture)
    pixels = torch.cat(columns, dim=3).clamp(-1.0, 1.0).add(1.0).mul(127.5).round().to(torch.uint8)
    rows = list(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())
    for row, kind, labelled in zip(rows, zone.tolist(), batch["score"].tolist()):
        label = f"{ZONE_KINDS[kind]} {labelled:.2f}"
        cv2.putText(row, label, (3, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate(rows, axis=0)


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write uint8 [H, W, 3] RGB; the file appears when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    partial = path.with_suffix(".partial")
    partial.write_bytes(encoded.tobytes())
    partial.replace(path)
