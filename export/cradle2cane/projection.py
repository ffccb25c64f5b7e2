"""The projections of the identity embeddings to a token of the UNet's condition."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

DEPTH = 4
_LAYERS_PER_STEP = 4


def widths(size_in: int, size_out: int) -> list[int]:
    """Widths after each of the four hidden layers: halved, but never below that of the output."""
    result = []
    width = size_in
    for _ in range(DEPTH):
        width = max(size_out, width // 2)
        result.append(width)
    return result


class Projection(nn.Module):
    """features float32 [B, size_in] -> token [B, size_out]: four times Linear, BatchNorm, LeakyReLU 0.2, then
    Linear.

    The published checkpoints number a dropout as the fourth layer of each step; it does nothing here.
    """

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = size_in
        for width in widths(size_in, size_out):
            layers += [nn.Linear(before, width), nn.BatchNorm1d(width), nn.LeakyReLU(0.2), nn.Identity()]
            before = width
        self.layers = nn.Sequential(*layers)
        self.fc_out = nn.Linear(before, size_out)

    def forward(self, features: Tensor) -> Tensor:
        token: Tensor = self.fc_out(self.layers(features))
        return token


def folded(projection: Projection) -> Projection:
    """The projection with every BatchNorm made part of the linear layer before it, in place of the original's
    weights: the hidden-state variant has 424 M of them, so they are not copied."""
    for index in range(0, DEPTH * _LAYERS_PER_STEP, _LAYERS_PER_STEP):
        linear: Any = projection.layers[index]
        norm: Any = projection.layers[index + 1]
        projection.layers[index] = fuse_linear_bn_eval(linear, norm)
        projection.layers[index + 1] = nn.Identity()
    return projection.eval()
