"""Second stage of the small autoencoder: the decoder learns crispness while the encoder, and so the latents,
stay.

A reconstruction loss alone decodes what it is unsure of as an average, and a fine wrinkle becomes a soft one.
As in Rombach et al. 2022 (section 3.1 and appendix G) a patch discriminator is added; here only the decoder
follows, on zone crops, so that a denoiser trained on the latents remains valid.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from training.autoencoder import SmallVAE
from training.crop_table import CropTable
from training.precision import channels_last, resolve
from training.train_vae import reconstruction_loss

logger = logging.getLogger(__name__)

SAVE_EVERY = 250
"""Steps from one saved state to the next."""


@dataclass(frozen=True)
class RefineConfig:
    """``batch_size`` windows of ``window`` pixels per process and step; old skin is drawn ``old_weight``
    times as often.
    """

    steps: int = 900
    batch_size: int = 12
    window: int = 64
    learning_rate: float = 3e-4
    discriminator_rate: float = 3e-4
    adversarial: float = 0.012
    warmup: int = 200
    old_weight: float = 3.0
    seed: int = 0


class PatchDiscriminator(nn.Module):
    """Logits per 8-pixel patch of an image [B, 3, H, W] in -1..1 (Isola et al. 2017)."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(width, width, 3, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(2 * width, 2 * width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image)
        return logits


def refine(zones: Path, vae: SmallVAE, state_path: Path, config: RefineConfig) -> SmallVAE:
    """Trains ``vae.decoder`` in place, or resumes from ``state_path``; returns ``vae``."""
    cpu = not torch.cuda.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision=resolve("auto", cpu))
    table = CropTable.read(zones)
    crops = np.load(zones / "crops.npy", mmap_mode="r")
    rows = np.flatnonzero((table.split == "train") & np.isfinite(table.score))
    weight = 1.0 + (config.old_weight - 1.0) * table.score[rows].astype(np.float32)
    cumulative = np.cumsum(weight / weight.sum())
    torch.manual_seed(config.seed)
    discriminator = PatchDiscriminator()
    channels_last(vae)
    channels_last(discriminator)
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=config.learning_rate, betas=(0.5, 0.99))
    d_optimizer = torch.optim.AdamW(
        discriminator.parameters(), lr=config.discriminator_rate, betas=(0.5, 0.99)
    )
    start = 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        vae.load_state_dict(state["vae"])
        discriminator.load_state_dict(state["discriminator"])
        optimizer.load_state_dict(state["optimizer"])
        d_optimizer.load_state_dict(state["d_optimizer"])
        start = state["step"]
    decoder, opt = accelerator.prepare(vae.decoder, optimizer)
    judge, d_opt = accelerator.prepare(discriminator, d_optimizer)
    clock = time.perf_counter()
    means: dict[str, float] = {}
    margin = crops.shape[1] - config.window
    for step in range(start, config.steps):
        rng = np.random.default_rng((config.seed, 5, step, accelerator.process_index))
        torch.manual_seed(int(rng.integers(2**31)))
        batch = np.empty((config.batch_size, config.window, config.window, 3), np.uint8)
        for i in range(config.batch_size):
            row = rows[min(int(np.searchsorted(cumulative, rng.random())), len(rows) - 1)]
            y, x = rng.integers(0, margin + 1, 2)
            batch[i] = crops[row, y : y + config.window, x : x + config.window]
        image = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            mean, logvar = vae.encode_raw(image)
            latents = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        rate = config.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))
        for group in opt.param_groups:
            group["lr"] = rate
        output = decoder(latents)
        terms = {"reconstruction": reconstruction_loss(output, image, 1.0)}
        strength = config.adversarial * min(1.0, max(0.0, step / config.warmup - 0.5))
        if strength > 0:
            discriminator.requires_grad_(False)
            terms["adversarial"] = -strength * discriminator(output).mean()
            discriminator.requires_grad_(True)
        opt.zero_grad(set_to_none=True)
        accelerator.backward(torch.stack(list(terms.values())).sum())
        accelerator.clip_grad_norm_(decoder.parameters(), 1.0)
        opt.step()
        real, false = judge(torch.cat([image, output.detach()])).chunk(2)
        terms["discriminator"] = F.relu(1 - real).mean() + F.relu(1 + false).mean()
        d_opt.zero_grad(set_to_none=True)
        accelerator.backward(terms["discriminator"])
        d_opt.step()
        for name, term in terms.items():
            value = float(term.detach())
            means[name] = means.get(name, value) + 0.02 * (value - means.get(name, value))
        if accelerator.is_main_process and (step + 1) % 50 == 0:
            pace = (time.perf_counter() - clock) / (step + 1 - start)
            logger.info(
                "step %d %s, %.3f s a step",
                step + 1,
                " ".join(f"{k} {v:.4f}" for k, v in means.items()),
                pace,
            )
        if accelerator.is_main_process and ((step + 1) % SAVE_EVERY == 0 or step + 1 == config.steps):
            partial = state_path.with_suffix(".partial")
            torch.save(
                {
                    "vae": vae.state_dict(), "discriminator": discriminator.state_dict(), "optimizer":
                    optimizer.state_dict(), "d_optimizer": d_optimizer.state_dict(), "step": step + 1,
                },
                partial,
            )  # fmt: skip
            partial.replace(state_path)
    accelerator.end_training()
    return vae.eval().requires_grad_(False)
