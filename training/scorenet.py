"""ScoreNet: reads the aging score of a zone from its latents (LDLA, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.options import from_json


@dataclass(frozen=True)
class ScoreNetConfig:
    latent_channels: int = 16
    channels: tuple[int, int, int] = (64, 96, 128)
    zones: int = 8
    dropout: float = 0.1


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class ScoreNet(nn.Module):
    """Convolutions over clean latents, then mean and maximum over positions; the zone is embedded."""

    def __init__(self, config: ScoreNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ScoreNetConfig()
        c1, c2, c3 = config.channels
        self.zone = nn.Embedding(config.zones, c1)
        self.conv_in = nn.Conv2d(config.latent_channels, c1, 3, padding=1)
        self.stage1 = _Block(c1)
        self.down1 = nn.Conv2d(c1, c2, 3, stride=2, padding=1)
        self.stage2 = _Block(c2)
        self.down2 = nn.Conv2d(c2, c3, 3, stride=2, padding=1)
        self.stage3 = _Block(c3)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Sequential(nn.Linear(2 * c3 + c1, 128), nn.SiLU(), nn.Linear(128, 1))

    def forward(self, latents: Tensor, zone: Tensor) -> Tensor:
        """latents: float32 [B, C, h, w], clean and scaled; zone: int64 [B] → score float32 [B] in 0..1."""
        embedding = self.zone(zone)
        h = self.stage1(self.conv_in(latents) + embedding[:, :, None, None])
        h = self.stage2(self.down1(h))
        h = F.silu(self.stage3(self.down2(h)))
        pooled = torch.cat([h.mean((2, 3)), h.amax((2, 3)), embedding], dim=1)
        return torch.sigmoid(self.head(self.dropout(pooled))).squeeze(1)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ScoreNet:
        return cls(ScoreNetConfig(**from_json(config)))
