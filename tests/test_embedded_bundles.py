"""The bundles in the wheel fit the recipe that is said to make them.

Their goldens are run in ``tests/engines/test_verify.py``.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from agesdk.bundle import Bundle, ZoneAgingSettings, embedded_bundle
from agesdk.manifest import PASTE_SETTINGS

ROOT = Path(__file__).parents[1]


def test_the_embedded_zone_bundle_is_the_recipes() -> None:
    """Settings that the calibration was measured with must be those of training/configs/reference.yaml."""
    settings = Bundle.open(embedded_bundle("zone-aging")).settings
    assert isinstance(settings, ZoneAgingSettings)
    with open(ROOT / "training/configs/reference.yaml", encoding="utf-8") as file:
        recipe = yaml.safe_load(file)
    for name, value in recipe["inference"].items():
        assert getattr(settings.defaults, name) == value
    for name in ("mode", *PASTE_SETTINGS):
        assert getattr(settings, name) == recipe["model"][name]
