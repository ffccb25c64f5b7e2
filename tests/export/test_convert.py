"""A bundle's components in fp16 and int8: typed, smaller, measured, and the runtime runs them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from agesdk.backends import load_engine
from agesdk.bundle import Bundle, BundleError, write_manifest
from agesdk.errors import UsageError
from agesdk.goldens import check_bundle
from agesdk.precision import has_int8_dot_products
from agesdk.zone_model import ZoneModel
from engines.__main__ import main as engines_main
from export.__main__ import main
from export.calibration import age_sample, psnr, read_sample
from export.convert import Options, convert
from export.errors import ExportError
from export.int8 import leave_out
from export.precision import mixed_types
from export.tolerances import scaled, weight_tensors
from tests import zone_crops

INT8 = ("denoise", "vae_decoder", "vae_encoder")


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zone_crops.save(tmp_path_factory.mktemp("crops"))


@pytest.fixture(scope="session")
def all_precisions(small_bundle: Path, crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small bundle in fp32, with fp16 and int8 beside."""
    folder = tmp_path_factory.mktemp("converted")
    convert(Options(small_bundle, folder / "fp16", "fp16", beside=True, progress=False))
    convert(
        Options(folder / "fp16", folder / "all", "int8", crops, beside=True, search=False, progress=False)
    )
    return Bundle.open(folder / "all")


def test_all_precisions_are_carried_and_pass_their_goldens(all_precisions: Bundle) -> None:
    precisions = {name: set(c.precisions) for name, c in all_precisions.manifest.components.items()}
    assert precisions == {
        name: {"fp32", "fp16", "int8"} if name in INT8 else {"fp32", "fp16"} for name in precisions
    }
    checks = check_bundle(all_precisions, load_engine)
    assert [check for check in checks if not check.passed] == []
    assert {(check.component, check.precision) for check in checks} == {
        (name, precision) for name, found in precisions.items() for precision in found
    }
    assert all_precisions.unlisted_files() == []


def test_one_precision_can_be_verified_alone(
    all_precisions: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the native backends need it, which have no engines of the others."""
    assert engines_main(["verify", str(all_precisions.path), "--json", "--precision", "fp16"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {check["precision"] for check in checks} == {"fp16"}
    assert {check["component"] for check in checks} == set(all_precisions.manifest.components)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_weight_of_any_component_changed_by_a_tenth_fails(
    all_precisions: Bundle, precision: str, tmp_path: Path
) -> None:
    if precision == "int8" and not has_int8_dot_products():
        pytest.skip("NOT TESTED: without 8-bit dot products int8 saturates, and is not what runs")
    components = all_precisions.manifest.components
    chosen = {name: precision for name, item in components.items() if precision in item.precisions}
    source = all_precisions.at(chosen)
    copy = Path(shutil.copytree(source.path, tmp_path / "copy"))
    for name in chosen:
        path = copy / source.component(name).files[0]
        ((_, data),) = scaled(path, [weight_tensors(onnx.load(path))[-1]])
        path.write_bytes(data)
    write_manifest(copy, all_precisions.manifest)
    checks = check_bundle(Bundle.open(copy), load_engine)
    failed = {(check.component, check.precision) for check in checks if not check.passed}
    assert failed == set(chosen.items())


def test_fp16_graphs_are_strongly_typed_with_float32_edges(all_precisions: Bundle) -> None:
    for name in all_precisions.manifest.components:
        half = all_precisions.at({name: "fp16"})
        model = ir.load(half.component_path(name))
        ShapeInferencePass()(model)
        assert mixed_types(model) == []
        edges = {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)}
        assert edges <= {ir.DataType.FLOAT, ir.DataType.UINT8, ir.DataType.INT64}
        weights = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT16]
        assert sum(v.const_value.size for v in weights if v.const_value is not None) > 50


def test_int8_graphs_have_8_bit_weights_per_channel(all_precisions: Bundle) -> None:
    for name in INT8:
        model = onnx.load(all_precisions.at({name: "int8"}).component_path(name))
        exact = onnx.load(all_precisions.component_path(name))
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        scales = {n.input[0]: n.input[1] for n in model.graph.node if n.op_type == "DequantizeLinear"}
        kernels = [tensors[scale] for weight, scale in scales.items() if weight.endswith("weight_quantized")]
        wanted = sum(node.op_type in ("Conv", "Gemm") for node in exact.graph.node)
        assert len(kernels) >= wanted - 1 and all(kernel.dims[0] > 1 for kernel in kernels)


def test_the_runtime_runs_what_is_asked_for(all_precisions: Bundle, crops: Path) -> None:
    sample = read_sample(crops, "test", 4, all_precisions.settings.zones, 128, 0)
    made = {}
    for precision in ("fp32", "fp16", "int8"):
        model = ZoneModel.open(all_precisions, threads=1, precision=precision)
        assert model.engines.precisions()["denoise"] == precision
        made[precision] = age_sample(model, sample)
    assert psnr(made["fp32"], made["fp16"]) > 45.0
    assert 20.0 < psnr(made["fp32"], made["int8"]) < psnr(made["fp32"], made["fp16"])


def test_alone_the_fp32_graphs_are_gone(small_bundle: Path, tmp_path: Path) -> None:
    options = Options(small_bundle, tmp_path / "half", "fp16", keep_fp32=("score_net",), progress=False)
    convert(options)
    half, exact = Bundle.open(tmp_path / "half"), Bundle.open(small_bundle)
    precisions = {name: component.precisions for name, component in half.manifest.components.items()}
    assert precisions == {name: ("fp32",) if name == "score_net" else ("fp16",) for name in precisions}
    assert (
        half.component_path("denoise").stat().st_size < 0.8 * exact.component_path("denoise").stat().st_size
    )
    assert not (half.path / "components/denoise/model.onnx").exists()
    with pytest.raises(BundleError, match=r"not there in fp32.*fp16"):
        ZoneModel.open(half, precision="fp32")


def test_sizes_that_are_never_reached_are_an_error(small_bundle: Path, crops: Path, tmp_path: Path) -> None:
    options = Options(small_bundle, tmp_path / "out", "int8", crops, min_psnr=150.0, progress=False)
    with pytest.raises(ExportError, match="No layer"):
        convert(options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"crops": None}, "--crops"),
        ({"keep_fp32": ("nothing",)}, "names no component"),
        (
            {"keep_fp32": ("vae_encoder", "vae_decoder", "denoise", "condition_encoder", "score_net")},
            "no float32",
        ),
    ],
)
def test_bad_options_write_nothing(
    small_bundle: Path, crops: Path, tmp_path: Path, changes: dict, reason: str
) -> None:
    options = replace(Options(small_bundle, tmp_path / "out", "int8", crops, progress=False), **changes)
    with pytest.raises(UsageError, match=reason):
        convert(options)
    assert list(tmp_path.iterdir()) == []


def test_int8_straight_from_a_checkpoint_asks_for_crops(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ldla", str(small_checkpoint), str(tmp_path / "out"), "--precision", "int8", "--quiet"]) == 2
    assert "--crops" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_worst_layers_are_left_out_first() -> None:
    harm = {("a", "harmless"): 0.1, ("a", "worst"): 9.0, ("b", "bad"): 4.0, ("b", "mild"): 0.5}

    def damage(layers) -> float:
        return float(np.sum([harm[layer] for layer in layers]))

    assert leave_out(list(harm), damage, 20.0)[0] == list(harm)
    assert leave_out(list(harm), damage, 5.0) == ([("a", "harmless"), ("b", "bad"), ("b", "mild")], 4.6)
    assert leave_out(list(harm), damage, 1.0)[0] == [("a", "harmless"), ("b", "mild")]
    assert leave_out(list(harm), damage, 0.01) == ([], 0.0)
