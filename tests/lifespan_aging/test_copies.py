"""What crosses between host and device in lifespan aging."""

from __future__ import annotations

import numpy as np
import pytest

from agesdk.backends import Engine, load_engine
from agesdk.bundle import Bundle, SvrSettings
from agesdk.lifespan_aging import LifespanAger
from agesdk.lifespan_model import LifespanModel
from tests.device_engine import DeviceEngine, Traffic
from tests.lifespan_reference import Variant


def ager_on_device(ager: LifespanAger) -> tuple[LifespanAger, Traffic]:
    """The same ager, its engines wrapped."""
    traffic, bundle = Traffic(), ager.model.bundle

    def load(bundle: Bundle, name: str) -> Engine:
        return DeviceEngine(load_engine(bundle, name, threads=1), traffic)

    model = LifespanModel(bundle, load, "tables")
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
