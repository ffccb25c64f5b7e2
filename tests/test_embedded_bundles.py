"""The bundles in the wheel give, on this machine, what torch or LiteRT gave when they were exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from agesdk.backends import load_engine
from agesdk.bundle import Bundle, ZoneAgingSettings, embedded_bundle

ROOT = Path(__file__).parents[1]
COMPONENTS = [
    (kind, component)
    for kind in ("zone-aging", "face-analysis")
    for component in Bundle.open(embedded_bundle(kind)).manifest.components
]


@pytest.mark.parametrize(("kind", "component"), COMPONENTS)
def test_goldens_of_the_embedded_bundles(kind: str, component: str) -> None:
    bundle = Bundle.open(embedded_bundle(kind))
    golden = bundle.golden(component)
    engine = load_engine(bundle, component)
    feeds = {
        name.removeprefix("input."): array for name, array in golden.items() if name.startswith("input.")
    }
    outputs = engine.run(feeds)
    for spec in engine.outputs:
        got, wanted = engine.to_host(outputs[spec.name]), golden[f"output.{spec.name}"]
        if spec.dtype == "uint8":
            assert np.abs(got.astype(int) - wanted).max() <= 1
        else:
            np.testing.assert_allclose(got, wanted, atol=2e-3 * max(1.0, float(np.abs(wanted).max())))


def test_the_embedded_zone_bundle_is_the_recipes() -> None:
    """Settings that the calibration was measured with must be those of training/configs/reference.yaml."""
    settings = Bundle.open(embedded_bundle("zone-aging")).settings
    assert isinstance(settings, ZoneAgingSettings)
    with open(ROOT / "training/configs/reference.yaml", encoding="utf-8") as file:
        recipe = yaml.safe_load(file)
    for name, value in recipe["inference"].items():
        assert getattr(settings.defaults, name) == value
    for name in ("mode", "blur_sigma", "detail_sigma", "chroma"):
        assert getattr(settings, name) == recipe["model"][name]
