"""Exponential moving average of a module's parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """Averages of a module's floating-point parameters and buffers, float32 on the module's device.

    After optimiser step n (counted from 1) the average moves by ``1 − d_n`` towards the module, with
    ``d_n = min(decay, (1 + n) / (10 + n))``: the average forgets the random start quickly.

    Parameters
    ----------
    module: the module to follow. Tensors that do not require gradients and are no buffers (frozen parameters)
    are
        not followed.
    decay: the limit of d_n, in 0..1.
    """

    def __init__(self, module: nn.Module, decay: float = 0.9995) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA decay is {decay}; it must lie in [0, 1)")
        self.decay = decay
        self.updates = 0
        self.shadow = {name: tensor.detach().float().clone() for name, tensor in _followed(module)}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the averages towards ``module``; call once after each optimiser step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        shadows, currents = [], []
        for name, tensor in _followed(module):
            shadows.append(self.shadow[name])
            currents.append(tensor.detach().float())
        torch._foreach_lerp_(shadows, currents, 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's followed tensors with the averages."""
        for name, tensor in _followed(module):
            tensor.copy_(self.shadow[name])

    @contextlib.contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module with the averaged weights inside the block, with its own weights again after it."""
        own = {name: tensor.detach().clone() for name, tensor in _followed(module)}
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in _followed(module):
                    tensor.copy_(own[name])

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore averages; the names must be those of the module given at construction."""
        if set(state["shadow"]) != set(self.shadow):
            differing = sorted(set(state["shadow"]) ^ set(self.shadow))
            raise ValueError(
                f"EMA state is of another module: {len(differing)} names differ, first '{differing[0]}'"
            )
        self.updates = int(state["updates"])
        for name, tensor in state["shadow"].items():
            self.shadow[name].copy_(tensor)


def _followed(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            yield name, parameter
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            yield name, buffer
