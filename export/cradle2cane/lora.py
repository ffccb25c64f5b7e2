"""The second pass's LoRA: read from the published file, then kept behind a scale or merged into the weights.

Low-rank adaptation (Hu et al. 2021): ``y = W x + scale * up(down(x))``. The published file has no alpha, so
the scale is 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from export.errors import CheckpointError

PREFIX = "unet."
DOWN, UP = ".lora.down.weight", ".lora.up.weight"


@dataclass(frozen=True)
class LowRank:
    """One adapted layer: ``down`` float32 [rank, in], ``up`` float32 [out, rank]."""

    down: Tensor
    up: Tensor


def read_lora(tensors: Mapping[str, Tensor], path: Path, rank: int | None) -> dict[str, LowRank]:
    """Pairs by the name of the UNet's layer.

    Parameters
    ----------
    tensors:
        The file's content; ``path`` is named in errors.
    rank:
        What the hyperparameters say; None accepts any, but one for all layers.

    Raises
    ------
    CheckpointError
        A key of another kind, half of a pair, or a rank that differs.
    """
    for key in tensors:
        if not (key.startswith(PREFIX) and key.endswith((DOWN, UP))):
            raise CheckpointError(
                f"{path} has the key {key!r}",
                f"a LoRA of the UNet has {PREFIX}<layer>{DOWN} and {PREFIX}<layer>{UP} only",
            )
    names = sorted({key[len(PREFIX) :].removesuffix(DOWN).removesuffix(UP) for key in tensors})
    if not names:
        raise CheckpointError(f"{path} holds no LoRA weights")
    pairs = {}
    for name in names:
        for end in (DOWN, UP):
            if f"{PREFIX}{name}{end}" not in tensors:
                raise CheckpointError(f"{path} lacks the key {PREFIX}{name}{end}", "its other half is there")
        down, up = (tensors[f"{PREFIX}{name}{end}"].float() for end in (DOWN, UP))
        if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
            raise CheckpointError(
                f"The LoRA of {name} in {path} has the shapes {list(down.shape)} and {list(up.shape)}",
                "expected [rank, in] and [out, rank]",
            )
        rank = down.shape[0] if rank is None else rank
        if down.shape[0] != rank:
            raise CheckpointError(
                f"The LoRA of {name} in {path} has rank {down.shape[0]}",
                f"the rank of this checkpoint is {rank}",
            )
        pairs[name] = LowRank(down, up)
    return pairs


def _linears(unet: nn.Module, pairs: Mapping[str, LowRank]) -> Iterator[tuple[str, nn.Linear, LowRank]]:
    """The adapted layers, checked to exist and to fit."""
    modules = dict(unet.named_modules())
    for name, pair in pairs.items():
        linear = modules.get(name)
        if not isinstance(linear, nn.Linear):
            raise CheckpointError(f"The LoRA adapts {name!r}", "the UNet has no linear layer of that name")
        wanted = (pair.up.shape[0], pair.down.shape[1])
        if tuple(linear.weight.shape) != wanted:
            raise CheckpointError(
                f"The LoRA of {name} is for a layer of {list(wanted)}",
                f"the UNet's is {list(linear.weight.shape)}: the LoRA belongs to another UNet",
            )
        yield name, linear, pair


class Switch:
    """The scale that all `SwitchedLinear` of a UNet read while `at` is in force, float32 [B]."""

    def __init__(self) -> None:
        self.scale: Tensor | None = None

    @contextmanager
    def at(self, scale: Tensor) -> Iterator[None]:
        self.scale = scale
        try:
            yield
        finally:
            self.scale = None


class SwitchedLinear(nn.Module):
    """A linear layer and its LoRA, scaled row by row: x [B, T, in] -> [B, T, out]."""

    def __init__(self, linear: nn.Linear, pair: LowRank, switch: Switch) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(pair.down, requires_grad=False)
        self.up = nn.Parameter(pair.up, requires_grad=False)
        self.switch = switch

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x)
        if self.switch.scale is None:
            return result
        # Scaled between the two products, where the tensor is narrowest.
        low = torch.nn.functional.linear(x, self.down) * self.switch.scale[:, None, None]
        return result + torch.nn.functional.linear(low, self.up)


def make_switched(unet: nn.Module, pairs: Mapping[str, LowRank]) -> Switch:
    """Put every adapted layer behind one switch, in place; without a scale the UNet is the original."""
    switch = Switch()
    for name, linear, pair in list(_linears(unet, pairs)):
        parent, _, child = name.rpartition(".")
        setattr(unet.get_submodule(parent), child, SwitchedLinear(linear, pair, switch))
    return switch


def merge(unet: nn.Module, pairs: Mapping[str, LowRank]) -> None:
    """Add the LoRA to the weights, in place."""
    with torch.no_grad():
        for _, linear, pair in _linears(unet, pairs):
            linear.weight.add_((pair.up @ pair.down).to(linear.weight.dtype))


def check_fits(unet: nn.Module, pairs: Mapping[str, LowRank]) -> None:
    """Raise `CheckpointError` where the LoRA does not fit the UNet."""
    for _ in _linears(unet, pairs):
        pass
