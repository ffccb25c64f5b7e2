"""ArcFace's improved residual networks, written for the key names of the published ``backbone.pth``.

iResNet (Deng et al. 2019, "ArcFace", section 3.2; Duta et al. 2020, "Improved Residual Networks"): BatchNorm
before and after every convolution of a block, PReLU between them, no activation after the sum. A 112 × 112
picture becomes 512 × 7 × 7 values (the hidden state, after the last BatchNorm2d) and, through one linear
layer with BatchNorm1d, an embedding of 512.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

LAYERS: dict[str, tuple[int, int, int, int]] = {
    "r18": (2, 2, 2, 2),
    "r34": (3, 4, 6, 3),
    "r50": (3, 4, 14, 3),
    "r100": (3, 13, 30, 3),
    "r200": (6, 26, 60, 6),
}
"""Blocks per stage. Networks of other families (mbf, vit, r2060) can not give the published script its hidden
state, so no checkpoint of it uses them."""

INPUT_SIDE = 112
EMBEDDING = 512
HIDDEN_SIDE = 7
HIDDEN = 512 * HIDDEN_SIDE**2
WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """``x -> shortcut(x) + bn3(conv2(prelu(bn2(conv1(bn1(x))))))``; the second convolution strides."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        result: Tensor = self.bn3(self.conv2(x)) + shortcut
        return result


class IResNet(nn.Module):
    """float32 [B, 3, 112, 112] RGB in -1..1 -> hidden state [B, 25088] (C, H, W order), embedding [B, 512].

    The embedding is not normalised.
    """

    def __init__(self, layers: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.prelu = nn.PReLU(WIDTHS[0])
        before = WIDTHS[0]
        for number, (width, count) in enumerate(zip(WIDTHS, layers, strict=True), start=1):
            blocks = [Block(before if i == 0 else width, width, 2 if i == 0 else 1) for i in range(count)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            before = width
        self.bn2 = nn.BatchNorm2d(WIDTHS[-1])
        self.fc = nn.Linear(HIDDEN, EMBEDDING)
        self.features = nn.BatchNorm1d(EMBEDDING)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.prelu(self.bn1(self.conv1(pixels)))
        for number in range(1, len(WIDTHS) + 1):
            x = getattr(self, f"layer{number}")(x)
        hidden_state = torch.flatten(self.bn2(x), 1)
        return hidden_state, self.features(self.fc(hidden_state))


def iresnet(network: str) -> IResNet:
    """The network by its published name (``r18`` ... ``r200``); KeyError for any other."""
    return IResNet(LAYERS[network])


def folded(network: IResNet) -> IResNet:
    """A copy in which every BatchNorm that follows a convolution or the linear layer is part of it.

    Those before a convolution stay: its zero padding is not zero before them.
    """
    network = copy.deepcopy(network).eval()
    _fold(network, "conv1", "bn1")
    for module in network.modules():
        if isinstance(module, Block):
            _fold(module, "conv1", "bn2")
            _fold(module, "conv2", "bn3")
            if isinstance(module.downsample, nn.Sequential):
                _fold(module.downsample, "0", "1")
    fused = fuse_linear_bn_eval(network.fc, network.features)
    network.fc, network.features = fused, nn.Identity()  # type: ignore[assignment]
    return network


def _fold(parent: nn.Module, convolution: str, norm: str) -> None:
    before: Any = parent.get_submodule(convolution)
    after: Any = parent.get_submodule(norm)
    fused = fuse_conv_bn_eval(before, after)
    setattr(parent, convolution, fused)
    setattr(parent, norm, nn.Identity())
