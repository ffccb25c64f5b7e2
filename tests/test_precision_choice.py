"""Which precision runs, and what happens when a reduced one gives nothing finite."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from agesdk import precision
from agesdk.bundle import Bundle, BundleError, Variant, write_manifest
from agesdk.errors import BackendError, UsageError
from agesdk.strict_json import Invalid
from agesdk.zone_model import ZoneModel
from tests import tiny_zone_bundle

LATENT = (1, 3, 16, 16)


def add_variant(
    folder: Path, component: str, key: str, preferred_on: str | None, last: str = "Identity"
) -> None:
    """Give a component of the tiny bundle a variant whose first output goes through one operator more."""
    bundle = Bundle.open(folder)
    model = onnx.load(bundle.component_path(component))
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{name}_exact" if name == output else name for name in node.output]
    model.graph.node.append(helper.make_node(last, [f"{output}_exact"], [output]))
    path = folder / "components" / component / key / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(model.SerializeToString())
    manifest = bundle.manifest
    variant = Variant((path.relative_to(folder).as_posix(),), preferred_on=preferred_on)
    old = manifest.components[component]
    changed = replace(old, variants={**old.variants, key: variant})
    write_manifest(
        folder, replace(manifest, components={**manifest.components, component: changed}, files=())
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_zone_bundle.save(tmp_path / "bundle")


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    add_variant(folder, "denoise", "int8", "cpu")
    add_variant(folder, "denoise", "fp16", "gpu")
    add_variant(folder, "vae_decoder", "fp16", None)
    return Bundle.open(folder)


@pytest.mark.parametrize(
    ("asked", "provider", "fast", "denoise", "decoder"),
    [
        ("auto", "cpu", True, "int8", "fp32"),
        ("auto", "cpu", False, "fp32", "fp32"),
        ("auto", "cuda", True, "fp16", "fp32"),
        ("fp32", "cpu", True, "fp32", "fp32"),
        ("fp16", "cpu", True, "fp16", "fp16"),
        ("int8", "cpu", False, "int8", "fp32"),
    ],
)
def test_what_runs(
    bundle: Bundle, asked: str, provider: str, fast: bool, denoise: str, decoder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(precision, "has_int8_dot_products", lambda: fast)
    chosen = precision.choose(bundle, asked, "onnxruntime", provider)
    assert {n: chosen.component(n).precision for n in ("denoise", "vae_decoder", "score_net")} == {
        "denoise": denoise, "vae_decoder": decoder, "score_net": "fp32",
    }  # fmt: skip


def test_what_is_not_there_is_an_error(folder: Path, bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"fp61.*Did you mean \"fp16\""):
        precision.choose(bundle, "fp61", "onnxruntime", "cpu")
    plain = Bundle.open(tiny_zone_bundle.save(folder.parent / "plain"))
    with pytest.raises(BundleError, match=r"not there in int8.*export convert"):
        ZoneModel.open(plain, precision="int8")


def test_the_processor_of_this_machine_is_recognised() -> None:
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    if flags:
        wanted = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"} & set(flags)
        assert precision.has_int8_dot_products() == bool(wanted)


def test_the_variant_says_in_the_result_that_it_ran(bundle: Bundle) -> None:
    assert ZoneModel.open(bundle, precision="int8").engines.precisions()["denoise"] == "int8"


@pytest.mark.parametrize(
    ("component", "call"),
    [
        ("vae_encoder", lambda model: model.encode(np.full((1, 128, 128, 3), 90, np.uint8))[0]),
        (
            "vae_decoder",
            lambda model: model.decode(np.random.default_rng(0).uniform(-1, 1, LATENT).astype(np.float32)),
        ),
    ],
)
def test_a_broken_fp16_component_is_repeated_in_fp32(
    folder: Path, component: str, call, caplog: pytest.LogCaptureFixture
) -> None:
    """The logarithm of a negative number stands for an overflow: both leave NaN."""
    exact = call(ZoneModel.open(folder))
    add_broken(folder, component)
    model = ZoneModel.open(folder, precision="fp16")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(call(model), exact)
    assert f'"{component}" gave a result that is not finite in fp16' in caplog.text
    assert model.engines.precisions()[component] == "fp32"
    caplog.clear()
    call(model)
    assert caplog.text == ""


def test_a_broken_denoiser_is_repeated_without_counting_its_steps_twice(folder: Path) -> None:
    from agesdk.diffusion.schedule import make_schedule

    def aged(model: ZoneModel) -> tuple[np.ndarray, list[int]]:
        schedule = make_schedule(model.settings.scheduler, 4, 0.5)
        noise = np.zeros((1 + schedule.noisy_steps, *LATENT), np.float32)
        ticks: list[int] = []
        latents = np.full(LATENT, -0.5, np.float32)
        made = model.age(schedule, ["forehead"], [0.5], latents, noise, 1.0, on_step=ticks.append)
        return made, ticks

    exact, ticks = aged(ZoneModel.open(folder))
    add_broken(folder, "denoise")
    made, repeated = aged(ZoneModel.open(folder, precision="fp16"))
    np.testing.assert_array_equal(made, exact)
    assert repeated == ticks


def test_without_fp32_a_broken_component_is_an_error_with_advice(folder: Path) -> None:
    add_broken(folder, "vae_encoder")
    only_half = Bundle.open(folder).at({"vae_encoder": "fp16"})
    component = replace(only_half.component("vae_encoder"), variants={})
    components = {**only_half.manifest.components, "vae_encoder": component}
    model = ZoneModel.open(Bundle(folder, replace(only_half.manifest, components=components)))
    with pytest.raises(BackendError, match=r"not finite in fp16.*does not carry.*--keep-fp32 vae_encoder"):
        model.encode(np.full((1, 128, 128, 3), 90, np.uint8))


def test_a_grey_picture_in_fp32_is_taken_for_what_it_is(folder: Path) -> None:
    picture = ZoneModel.open(folder).decode(np.zeros(LATENT, np.float32))
    assert picture.min() == picture.max()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"variants": {"fp61": Variant(("a.onnx",))}}, "variants.fp61"),
        ({"variants": {"fp32": Variant(("a.onnx",))}}, "variants.fp32"),
        ({"tolerances": {"nothing": None}}, "tolerances"),
    ],
)
def test_a_manifest_with_impossible_variants_is_refused(bundle: Bundle, changes: dict, where: str) -> None:
    with pytest.raises(Invalid, match=where):
        replace(bundle.component("score_net"), **changes)


def test_a_variant_with_an_unlisted_file_is_refused(folder: Path, bundle: Bundle) -> None:
    copy = Path(shutil.copytree(folder, folder.parent / "copy"))
    text = (copy / "manifest.json").read_text()
    path = "components/denoise/int8/model.onnx"
    (copy / "manifest.json").write_text(text.replace(f'"{path}"', '"components/denoise/other.onnx"', 1))
    with pytest.raises(BundleError, match=r"variants\.int8\.files\[0\]"):
        Bundle.open(copy)


def add_broken(folder: Path, component: str) -> None:
    """An fp16 variant whose latents are NaN; the picture of a decoder is black, as NaN is in 8 bits."""
    if component != "vae_decoder":
        add_variant(folder, component, "fp16", None, last="Log" if component == "denoise" else "Sqrt")
        return
    add_variant(folder, component, "fp16", None)
    bundle = Bundle.open(folder)
    path = bundle.at({component: "fp16"}).component_path(component)
    model = onnx.load(path)
    first = model.graph.node[0]
    first.input[0] = "broken"
    model.graph.node.insert(0, helper.make_node("Sqrt", ["negative"], ["broken"]))
    model.graph.node.insert(0, helper.make_node("Sub", ["latents", "hundred"], ["negative"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(100), "hundred"))
    path.write_bytes(model.SerializeToString())
    write_manifest(folder, replace(bundle.manifest, files=()))
