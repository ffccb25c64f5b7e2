"""What crosses between host and device in zone aging."""

from __future__ import annotations

import numpy as np
import pytest

from agesdk.backends import load_engine
from agesdk.zone_aging import ZoneAger
from agesdk.zone_model import ZoneModel
from tests.device_engine import DeviceEngine, Traffic

TARGETS = {"crows_feet": 0.6}


@pytest.mark.parametrize(("guidance_scale", "back"), [(1.0, 0), (1.9, 1)])
def test_latents_go_from_the_denoiser_to_the_decoder_on_the_device(small, portrait, guidance_scale, back):
    """Guided latents come back once, since the half that is decoded is cut from them on the host."""
    usual, traffic = small.ager(), Traffic()

    def load(bundle, name):
        return DeviceEngine(load_engine(bundle, name, threads=1), traffic)

    model = ZoneModel(usual.model.bundle, load)
    ager = ZoneAger(model, lambda: usual.analyzer)
    face = ager.prepare(*portrait)
    ager.age(face, TARGETS, guidance_scale=guidance_scale, seed=3)  # encodes what only aging needs
    traffic.clear()
    result = ager.age(face, TARGETS, guidance_scale=guidance_scale, seed=3)
    assert {zone.wave for zone in result.zones.values()} == {0}
    assert traffic.kinds["picture down"] == 1
    scored = 2  # mean and deviation of the finished picture's crops, for their scores
    assert traffic.kinds["latents down"] == scored + back
    expected = usual.age(usual.prepare(*portrait), TARGETS, guidance_scale=guidance_scale, seed=3)
    np.testing.assert_array_equal(result.image, expected.image)
