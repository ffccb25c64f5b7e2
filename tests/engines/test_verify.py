"""``python -m engines verify``: whole bundles pass, a bundle with one weight changed by a tenth fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from agesdk.bundle import Bundle, embedded_bundle, write_manifest
from engines.__main__ import main
from export.tolerances import scaled, weight_tensors


def verify(capsys: pytest.CaptureFixture[str], bundle: Path) -> tuple[int, dict]:
    code = main(["verify", str(bundle), "--json", "--threads", "1"])
    return code, json.loads(capsys.readouterr().out)


def with_scaled_weight(source: Bundle, component: str, precision: str, folder: Path) -> Path:
    """A valid bundle in which the last weight tensor of one graph is multiplied by 1.1."""
    copy = Path(shutil.copytree(source.path, folder))
    path = copy / source.at({component: precision}).component(component).files[0]
    name = weight_tensors(onnx.load(path))[-1]
    ((_, data),) = scaled(path, [name])
    path.write_bytes(data)
    write_manifest(copy, source.manifest)
    return copy


@pytest.mark.parametrize("kind", ["zone-aging", "face-analysis"])
def test_embedded_bundles_pass(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = verify(capsys, embedded_bundle(kind))
    assert code == 0 and report["passed"]
    assert {check["component"] for check in report["checks"]} == set(
        Bundle.open(embedded_bundle(kind)).manifest.components
    )
    assert all(check["mean_abs"] <= check["max_abs"] for check in report["checks"])


@pytest.mark.parametrize(
    ("kind", "component"),
    [
        (kind, component)
        for kind in ("zone-aging", "face-analysis")
        for component in Bundle.open(embedded_bundle(kind)).manifest.components
    ],
)
def test_a_weight_of_an_embedded_bundle_changed_by_a_tenth_fails(
    kind: str, component: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = Bundle.open(embedded_bundle(kind))
    copy = with_scaled_weight(source, component, source.component(component).precision, tmp_path / "copy")
    code, report = verify(capsys, copy)
    assert code == 1
    assert {check["component"] for check in report["checks"] if not check["passed"]} == {component}


def test_the_table_names_what_failed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = Bundle.open(embedded_bundle("face-analysis"))
    copy = with_scaled_weight(source, "face_detector", "fp32", tmp_path / "copy")
    assert main(["verify", str(copy)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "component",
        "precision",
        "output",
        *["max", "error", "allowed"],
        *["mean", "error", "allowed"],
    ]
    assert any(line.startswith("face_detector") and line.endswith("FAILED") for line in lines)
    assert all(line.endswith("ok") for line in lines if line.startswith("face_landmarks"))
    assert lines[-1].endswith("FAILED in face_detector")


def test_an_output_that_is_not_finite_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = Bundle.open(embedded_bundle("face-analysis"))
    copy = Path(shutil.copytree(source.path, tmp_path / "copy"))
    path = copy / source.component("face_landmarks").files[0]
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == weight_tensors(model)[-1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(np.nan), tensor.name))
    path.write_bytes(model.SerializeToString())
    write_manifest(copy, source.manifest)
    code, report = verify(capsys, copy)
    assert code == 1
    assert any(check["max_abs"] is None for check in report["checks"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "golden/face_detector.npz").unlink(), "no file 'golden/face_detector.npz'"),
        (
            lambda folder: np.savez(folder / "golden/face_detector.npz", **{"input.image": np.zeros(1)}),
            "lacks 'output.",
        ),
    ],
)
def test_a_bundle_without_goldens_can_not_be_verified(
    change: Callable[[Path], object], reason: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = Bundle.open(embedded_bundle("face-analysis"))
    copy = Path(shutil.copytree(source.path, tmp_path / "copy"))
    change(copy)
    write_manifest(copy, source.manifest)
    assert main(["verify", str(copy)]) == 2
    assert reason in capsys.readouterr().err


def test_unknown_backends_and_providers_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--backend", "--provider"):
        assert main(["verify", str(embedded_bundle("face-analysis")), option, "nothing"]) == 2
        assert '"nothing" is unknown' in capsys.readouterr().err
