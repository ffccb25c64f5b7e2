"""The runtime imports none of the heavy packages, and importing it costs next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import agesdk

ROOT = Path(__file__).parents[1]


def test_every_module_and_every_help_work_without_the_heavy_packages() -> None:
    script = ROOT / "tests/bare_environment.py"
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_exists_and_others_do_not() -> None:
    for name in agesdk.__all__:
        assert getattr(agesdk, name) is not None
    assert set(agesdk.__all__) <= set(dir(agesdk))
    with pytest.raises(AttributeError, match="ZoneAgr"):
        _ = agesdk.ZoneAgr
