"""What crosses between host and device, counted at real engines that hide their outputs as a GPU does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from agesdk.backends import Engine, load_engine
from agesdk.bundle import SvrSettings
from agesdk.lifespan_aging import LifespanAger
from agesdk.lifespan_model import LifespanModel
from tests.lifespan_reference import Variant


@dataclass(frozen=True)
class OnDevice:
    """An output that the host can not look into."""

    array: np.ndarray = field(repr=False)


class Traffic:
    """Crossings of pictures and latents by content and direction; blank arrays are left out."""

    def __init__(self) -> None:
        self.crossings: Counter[bytes] = Counter()
        self.kinds: Counter[str] = Counter()

    def clear(self) -> None:
        self.crossings.clear()
        self.kinds.clear()

    def note(self, direction: str, array: np.ndarray) -> None:
        if array.ndim == 4 and array.any():
            self.crossings[array.tobytes()] += 1
            self.kinds[f"{'picture' if array.dtype == np.uint8 else 'latents'} {direction}"] += 1


class DeviceEngine:
    """An engine whose outputs stay away from the host until `to_host`."""

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

    def to_host(self, tensor: Any) -> np.ndarray:
        if isinstance(tensor, OnDevice):
            self._traffic.note("down", tensor.array)
            return tensor.array
        return np.asarray(tensor)


def ager_on_device(ager: LifespanAger) -> tuple[LifespanAger, Traffic]:
    """The same ager, its engines wrapped."""
    traffic, bundle = Traffic(), ager.model.bundle
    model = LifespanModel(
        bundle, lambda name: DeviceEngine(load_engine(bundle, name, threads=1), traffic), "tables"
    )
    return LifespanAger(model, lambda: ager.analyzer), traffic


@pytest.mark.parametrize("svr", [None, SvrSettings(), SvrSettings(strengths=(0.25, 0.5, 0.75))])
@pytest.mark.parametrize("chaining", [False, True])
def test_no_picture_or_latent_crosses_twice(
    variant_b: Variant, svr: SvrSettings | None, chaining: bool
) -> None:
    usual = variant_b.ager(svr=svr)
    ager, traffic = ager_on_device(usual)
    person = ager.prepare(variant_b.golden["images/astronaut"])
    traffic.clear()
    result = ager.age(person, 25, 75, "male", seed=3, latent_chaining=chaining)
    assert max(traffic.crossings.values()) == 1
    further = 2 if svr is not None and svr.strengths else 0
    first_picture = int(svr is not None or not chaining)
    assert traffic.kinds == {
        # Of the first pass (three steps) its start and the noise of all but the last step; of further first
        # passes (one and two steps) the same; the start of the second.
        "latents up": 3 + (3 if further else 0) + 1,
        # Between the passes: mean and deviation of the first picture, or the latents that are handed on.
        "latents down": 1 if chaining else 2,
        "picture down": first_picture + 1,
    }
    expected = usual.age(
        usual.prepare(variant_b.golden["images/astronaut"]), 25, 75, "male", seed=3, latent_chaining=chaining
    )
    np.testing.assert_array_equal(result.image, expected.image)
