"""Real engines that hide their tensors as a GPU does, and what crosses between host and device, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agesdk.backends import Engine


@dataclass(frozen=True)
class OnDevice:
    """A tensor that the host can not look into."""

    array: np.ndarray = field(repr=False)


class Traffic:
    """Crossings of pictures and latents by content and direction."""

    def __init__(self) -> None:
        self.crossings: Counter[bytes] = Counter()
        self.kinds: Counter[str] = Counter()

    def clear(self) -> None:
        self.crossings.clear()
        self.kinds.clear()

    def note(self, direction: str, array: np.ndarray) -> None:
        if array.ndim == 4:
            self.crossings[array.tobytes()] += 1
            self.kinds[f"{'picture' if array.dtype == np.uint8 else 'latents'} {direction}"] += 1


class DeviceEngine:
    """An engine whose tensors stay away from the host until `to_host`."""

    def __init__(self, engine: Engine, traffic: Traffic) -> None:
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self.profile = engine.profile
        self._engine, self._traffic = engine, traffic

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        arrays = {}
        for name, tensor in feeds.items():
            if isinstance(tensor, np.ndarray):
                self._traffic.note("up", tensor)
            arrays[name] = tensor.array if isinstance(tensor, OnDevice) else tensor
        return {name: OnDevice(array) for name, array in self._engine.run(arrays).items()}

    def to_device(self, array: np.ndarray) -> OnDevice:
        self._traffic.note("up", array)
        return OnDevice(self._engine.to_device(array))

    def guide(self, halves: OnDevice, scale: float) -> OnDevice:
        return OnDevice(self._engine.guide(halves.array, scale))

    def to_host(self, tensor: Any) -> np.ndarray:
        if isinstance(tensor, OnDevice):
            self._traffic.note("down", tensor.array)
            return tensor.array
        return np.asarray(tensor)
