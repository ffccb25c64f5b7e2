"""A latent patch discriminator for the last stretch of training: against texture that is not skin.

Mean squared error alone leaves a small denoiser soft, and guidance then turns softness into blotches. The
discriminator sees latents in context (the blurred source and the mask) and, by projection (Miyato and Koyama
2018), whether they fit their zone and score; the idea of judging one-step estimates in latent space is that
of Sauer et al. 2024 (latent adversarial diffusion distillation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.options import from_json
from training.unet import ConditionEncoder, ConditionEncoderConfig


@dataclass(frozen=True)
class LatentDiscriminatorConfig:
    latent_channels: int = 16
    channels: tuple[int, int] = (96, 160)
    zones: int = 8


class LatentDiscriminator(nn.Module):
    """Logits per position at half the latent's resolution."""

    def __init__(self, config: LatentDiscriminatorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LatentDiscriminatorConfig()
        c1, c2 = config.channels
        norm = nn.utils.parametrizations.spectral_norm
        self.conv_in = nn.Conv2d(2 * config.latent_channels + 1, c1, 3, padding=1)
        self.conv1 = norm(nn.Conv2d(c1, c1, 3, padding=1))
        self.down = norm(nn.Conv2d(c1, c2, 3, stride=2, padding=1))
        self.conv2 = norm(nn.Conv2d(c2, c2, 3, padding=1))
        self.out = nn.Conv2d(c2, 1, 1)
        self.condition = ConditionEncoder(ConditionEncoderConfig(zones=config.zones, tokens=1, width=c2))

    def forward(
        self, latents: Tensor, masked_latents: Tensor, mask: Tensor, zone: Tensor, score: Tensor
    ) -> Tensor:
        """latents, masked_latents: [B, C, h, w]; mask: [B, 1, h, w]; zone, score: [B] → logits [B, 1, h/2,
        w/2].
        """
        context = torch.cat([latents, masked_latents, mask], dim=1)
        h = F.leaky_relu(self.conv_in(context), 0.2)
        h = F.leaky_relu(h + self.conv1(h), 0.2)
        h = F.leaky_relu(self.down(h), 0.2)
        h = F.leaky_relu(h + self.conv2(h), 0.2)
        direction = self.condition(zone, score)[:, 0, :, None, None]
        return self.out(h) + (h * direction).mean(dim=1, keepdim=True) * h.shape[1] ** 0.5

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LatentDiscriminator:
        return cls(LatentDiscriminatorConfig(**from_json(config)))
