"""The goldens of exported lifespan bundles: whole ones pass, a changed weight of any component fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from agesdk.backends import load_engine
from agesdk.bundle import Bundle, write_manifest
from agesdk.goldens import check_bundle
from export.tolerances import scaled, weight_tensors
from tests.lifespan_reference import Variant


@pytest.mark.parametrize("lora", ["switch", "fused"])
def test_goldens_pass(variant: Variant, lora: str) -> None:
    checks = check_bundle(getattr(variant, lora), load_engine)
    assert {check.component for check in checks} == set(getattr(variant, lora).manifest.components)
    assert [check for check in checks if not check.passed] == []


def test_a_weight_of_any_component_changed_by_a_tenth_fails(variant_a: Variant, tmp_path: Path) -> None:
    source = variant_a.switch
    copy = Path(shutil.copytree(source.path, tmp_path / "copy"))
    for component in source.manifest.components.values():
        path = copy / component.files[0]
        tensor = weight_tensors(onnx.load(path))[-1]
        ((_, data),) = scaled(path, [tensor])
        path.write_bytes(data)
    write_manifest(copy, source.manifest)
    checks = check_bundle(Bundle.open(copy), load_engine)
    assert {check.component for check in checks if not check.passed} == set(source.manifest.components)
