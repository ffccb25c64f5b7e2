"""The small variational autoencoder of the reference zone-aging model.

It follows the latent-diffusion autoencoder (Rombach et al. 2022, section 3.1) in its job, a factor-8 latent
with a slight KL penalty, and departs from it in its cost: pixels are folded into channels before the first
convolution (space-to-depth), so that nothing runs at full resolution, and the residual blocks carry no
normalisation, which keeps absolute skin tone exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.options import from_json


@dataclass(frozen=True)
class SmallVAEConfig:
    latent_channels: int = 16
    encoder_channels: tuple[int, int] = (64, 128)
    encoder_blocks: tuple[int, int] = (1, 2)
    decoder_channels: tuple[int, int, int] = (144, 80, 40)
    decoder_blocks: tuple[int, int, int] = (4, 3, 2)


class ResidualBlock(nn.Module):
    """``x + conv(silu(conv(silu(x))))``; the second convolution starts at zero, so that a deep stack starts
    as identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class SmallVAE(nn.Module):
    """Factor-8 autoencoder; latents are normalised per channel to zero mean and unit deviation.

    The normalisation takes the place of a diffusers VAE's ``scaling_factor``: what :meth:`encode` returns and
    :meth:`decode` takes is already scaled.
    """

    scale_factor = 8

    def __init__(self, config: SmallVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config or SmallVAEConfig()
        c = self.config.latent_channels
        e1, e2 = self.config.encoder_channels
        d1, d2, d3 = self.config.decoder_channels
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, e1, 3, padding=1),
            *[ResidualBlock(e1) for _ in range(self.config.encoder_blocks[0])],
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * e1, e2, 1),
            *[ResidualBlock(e2) for _ in range(self.config.encoder_blocks[1])],
            nn.SiLU(),
            nn.Conv2d(e2, 2 * c, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(c, d1, 3, padding=1),
            *[ResidualBlock(d1) for _ in range(self.config.decoder_blocks[0])],
            nn.Conv2d(d1, 4 * d2, 1),
            nn.PixelShuffle(2),
            *[ResidualBlock(d2) for _ in range(self.config.decoder_blocks[1])],
            nn.Conv2d(d2, 4 * d3, 1),
            nn.PixelShuffle(2),
            *[ResidualBlock(d3) for _ in range(self.config.decoder_blocks[2])],
            nn.SiLU(),
            nn.Conv2d(d3, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.register_buffer("latents_mean", torch.zeros(1, c, 1, 1))
        self.register_buffer("latents_std", torch.ones(1, c, 1, 1))
        self.latents_mean: Tensor
        self.latents_std: Tensor

    def encode_raw(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image: float32 [B, 3, H, W] in -1..1 → mean and log-variance, float32 [B, C, H/8, W/8], not
        normalised.
        """
        mean, logvar = self.encoder(image).chunk(2, dim=1)
        return mean, logvar.clamp(-12.0, 4.0)

    def decode_raw(self, latents: Tensor) -> Tensor:
        """latents as :meth:`encode_raw` gives them → image float32 [B, 3, H, W], about -1..1, not clamped."""
        return self.decoder(latents)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image: float32 [B, 3, H, W] in -1..1 → mean and standard deviation of the normalised latents."""
        mean, logvar = self.encode_raw(image)
        return (mean - self.latents_mean) / self.latents_std, torch.exp(0.5 * logvar) / self.latents_std

    def decode(self, latents: Tensor) -> Tensor:
        """latents: normalised, [B, C, h, w] → image float32 [B, 3, 8h, 8w], about -1..1, not clamped."""
        return self.decode_raw(latents * self.latents_std + self.latents_mean)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SmallVAE:
        return cls(SmallVAEConfig(**from_json(config)))
