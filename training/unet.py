"""The denoiser of the reference zone-aging model, and the encoder of what it is conditioned on.

A small convolutional UNet in the shape of Ho et al. 2020 with two resolutions. A zone-aging condition is
global (which zone, which score), so it modulates every block by scale and shift (Dhariwal and Nichol 2021,
section 3.4) instead of cross-attention over 77 text tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.options import from_json


@dataclass(frozen=True)
class SmallUNetConfig:
    """``in_channels`` is ``latent_channels`` for plain img2img, ``2 * latent_channels + 1`` for conditioned
    mode.
    """

    latent_channels: int = 16
    in_channels: int = 33
    channels: tuple[int, int] = (64, 128)
    blocks: int = 2
    heads: int = 4
    condition_tokens: int = 4
    condition_width: int = 64
    embedding_width: int = 256


class ModulatedBlock(nn.Module):
    """Residual block, its second normalisation scaled and shifted by the embedding; starts as identity."""

    def __init__(self, in_channels: int, channels: int, embedding_width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding_width, 2 * channels)
        self.skip = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class SelfAttention(nn.Module):
    """Residual multi-head attention over the positions of a small feature map; starts as identity."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3 * self.heads, channels // self.heads, height * width)
        q, k, v = qkv.transpose(2, 3).chunk(3, dim=1)
        # Written out: at 64 positions torch's fused kernel is several times slower on a CPU in bfloat16.
        weights = torch.softmax(q @ k.transpose(2, 3) * q.shape[-1] ** -0.5, dim=-1)
        h = (weights @ v).transpose(2, 3).reshape(batch, channels, height, width)
        return x + self.out(h)


def timestep_embedding(timestep: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding (Vaswani et al. 2017, section 3.5) of float32 [B] → float32 [B, width]."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=timestep.device) * (-math.log(10000.0) / half))
    angles = timestep.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class SmallUNet(nn.Module):
    """Predicts ε or v for latents [B, C, h, w]; h and w even."""

    def __init__(self, config: SmallUNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SmallUNetConfig()
        c1, c2 = config.channels
        e = config.embedding_width
        self.time = nn.Sequential(nn.Linear(128, e), nn.SiLU(), nn.Linear(e, e))
        self.condition = nn.Linear(config.condition_tokens * config.condition_width, e)
        self.conv_in = nn.Conv2d(config.in_channels, c1, 3, padding=1)
        self.down1 = nn.ModuleList(ModulatedBlock(c1, c1, e) for _ in range(config.blocks))
        self.downsample = nn.Conv2d(c1, c2, 3, stride=2, padding=1)
        self.down2 = nn.ModuleList(ModulatedBlock(c2, c2, e) for _ in range(config.blocks))
        self.attention2 = nn.ModuleList(SelfAttention(c2, config.heads) for _ in range(config.blocks))
        self.middle1 = ModulatedBlock(c2, c2, e)
        self.middle_attention = SelfAttention(c2, config.heads)
        self.middle2 = ModulatedBlock(c2, c2, e)
        self.up2 = nn.ModuleList(ModulatedBlock(2 * c2, c2, e) for _ in range(config.blocks))
        self.upsample = nn.Conv2d(c2, 4 * c1, 1)
        self.up1 = nn.ModuleList(ModulatedBlock(2 * c1, c1, e) for _ in range(config.blocks))
        self.norm_out = nn.GroupNorm(8, c1)
        self.conv_out = nn.Conv2d(c1, config.latent_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """sample: float32 [B, in_channels, h, w]; timestep: [B]; encoder_hidden_states: float32 [B, T, D]."""
        embedding = F.silu(
            self.time(timestep_embedding(timestep, 128)) + self.condition(encoder_hidden_states.flatten(1))
        )
        h = self.conv_in(sample)
        skips1 = []
        for block in self.down1:
            h = block(h, embedding)
            skips1.append(h)
        h = self.downsample(h)
        skips2 = []
        for block, attention in zip(self.down2, self.attention2, strict=True):
            h = attention(block(h, embedding))
            skips2.append(h)
        h = self.middle2(self.middle_attention(self.middle1(h, embedding)), embedding)
        for block in self.up2:
            h = block(torch.cat([h, skips2.pop()], dim=1), embedding)
        h = F.pixel_shuffle(self.upsample(h), 2)
        for block in self.up1:
            h = block(torch.cat([h, skips1.pop()], dim=1), embedding)
        return self.conv_out(F.silu(self.norm_out(h)))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SmallUNet:
        return cls(SmallUNetConfig(**from_json(config)))


@dataclass(frozen=True)
class ConditionEncoderConfig:
    """``ancestries``: names in the order of their index; none: the encoder has no such input."""

    zones: int = 8
    tokens: int = 4
    width: int = 64
    frequencies: int = 6
    ancestries: tuple[str, ...] = ()


class ConditionEncoder(nn.Module):
    """(zone, score[, ancestry]) → ``encoder_hidden_states``: what a text encoder is to a Stable Diffusion
    model.

    A negative score is the zone prompt of LDLA ("image of forehead", neither score nor ancestry), which is
    also the null condition of classifier-free guidance.
    """

    def __init__(self, config: ConditionEncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ConditionEncoderConfig()
        self.zone = nn.Embedding(config.zones, 128)
        self.dropped = nn.Parameter(torch.zeros(128))
        self.score = nn.Linear(2 * config.frequencies + 1, 128)
        self.mix = nn.Sequential(nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, config.tokens * config.width))
        if config.ancestries:
            # Row 0 is a person whose ancestry is not named. From zero, all start as that person.
            self.ancestry = nn.Embedding(len(config.ancestries) + 1, 128)
            nn.init.zeros_(self.ancestry.weight)

    def forward(self, zone: Tensor, score: Tensor, ancestry: Tensor | None = None) -> Tensor:
        """The condition of each sample, float32 [B, T, D].

        zone: int64 [B], index of the zone kind; score: float32 [B] in 0..1, or negative; ancestry: int64 [B],
        index into the configuration's ``ancestries``, or -1 where it is not named; None: for all. An encoder
        without ancestries takes none.
        """
        octaves = 2.0 ** torch.arange(self.config.frequencies, device=score.device) * (math.pi / 2)
        angles = score[:, None] * octaves[None]
        features = self.score(torch.cat([2 * score[:, None] - 1, angles.sin(), angles.cos()], dim=1))
        features = torch.where(score[:, None] < 0, self.dropped[None], features)
        person = self.zone(zone)
        if self.config.ancestries:
            named = torch.full_like(zone, -1) if ancestry is None else ancestry
            person = person + self.ancestry(torch.where(score < 0, -1, named) + 1)
        tokens = self.mix(torch.cat([person, features], dim=1))
        return tokens.reshape(-1, self.config.tokens, self.config.width)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ConditionEncoder:
        return cls(ConditionEncoderConfig(**from_json(config)))
