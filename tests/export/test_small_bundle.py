"""A small conditioned checkpoint, exported, against its torch modules."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from agesdk.backends import load_engine
from agesdk.bundle import Bundle, ZoneAgingSettings
from agesdk.errors import BundleError
from agesdk.faces.zones import ZONE_KINDS
from agesdk.manifest import PASTE_SETTINGS
from export.checkpoint import EXPECTED, load_module


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Bundle:
    return Bundle.open(small_bundle, kind="zone-aging")


def torch_module(checkpoint: Path, name: str) -> nn.Module:
    return load_module(checkpoint / name, EXPECTED[name])


def run(bundle: Bundle, component: str, **feeds: Tensor) -> dict[str, np.ndarray]:
    engine = load_engine(bundle, component, threads=1)
    return engine.run({name: tensor.numpy() for name, tensor in feeds.items()})


def test_settings_come_from_the_checkpoint_and_the_calibration_file(bundle: Bundle) -> None:
    settings = bundle.settings
    assert isinstance(settings, ZoneAgingSettings)
    assert (bundle.manifest.name, bundle.manifest.version) == ("small test model", "7")
    assert (settings.mode, settings.paste) == ("conditioned", "residual")
    assert [getattr(settings, name) for name in PASTE_SETTINGS] == [5.0, 9.0, 2.0, 1.5, 0.5, 0.75, 0.5]
    assert (settings.defaults.steps, settings.defaults.strength) == (8, 0.75)
    assert settings.scheduler.prediction_type == "v_prediction"
    assert settings.scheduler.timestep_spacing == "trailing"
    assert settings.zones == settings.condition.zones == ZONE_KINDS  # type: ignore[union-attr]
    assert settings.score_calibration == {"forehead": ((0.0, 0.1), (1.0, 0.9))}


def test_provenance_says_what_it_is_made_of_and_how_good(bundle: Bundle) -> None:
    provenance = bundle.manifest.provenance
    assert provenance["data"] == "noise"
    assert provenance["quality"] == {"mean_spearman": 0.97}
    assert provenance["parity"]["denoise"]["next_sample"]["relative"] < 1e-4
    assert "weights: Apache-2.0" in bundle.file_path("LICENSES.md").read_text()


def test_autoencoder_normalises_as_in_torch(bundle: Bundle, small_checkpoint: Path) -> None:
    vae = torch_module(small_checkpoint, "vae")
    image = torch.randint(0, 256, (5, 128, 128, 3), dtype=torch.uint8)
    latents = torch.randn(4, 4, 16, 16)
    with torch.no_grad():
        mean, std = vae.encode(image.permute(0, 3, 1, 2) / 127.5 - 1)  # type: ignore[operator]
        pixels = vae.decode(latents)  # type: ignore[operator]
    encoded = run(bundle, "vae_encoder", image=image)
    np.testing.assert_allclose(encoded["mean"], mean.numpy(), atol=2e-5)
    np.testing.assert_allclose(encoded["std"], std.numpy(), atol=2e-5)
    decoded = run(bundle, "vae_decoder", latents=latents)["image"].astype(int)
    expected = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).int().numpy()
    assert np.abs(decoded - expected).max() <= 1


def test_condition_has_a_null_for_every_zone(bundle: Bundle, small_checkpoint: Path) -> None:
    encoder = torch_module(small_checkpoint, "condition_encoder")
    zone = torch.arange(8).repeat(2)
    score = torch.cat([torch.linspace(0, 1, 8), torch.full((8,), -1.0)])
    with torch.no_grad():
        expected = encoder(zone, score).numpy()
        other_null = encoder(zone, torch.where(score < 0, -0.5, score)).numpy()
    got = run(bundle, "condition_encoder", zone=zone, score=score)["encoder_hidden_states"]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(got[8:], other_null[8:], atol=1e-5)


def test_conditioned_step_sees_source_and_mask(bundle: Bundle, small_checkpoint: Path) -> None:
    unet = torch_module(small_checkpoint, "unet")
    generator = torch.Generator().manual_seed(0)
    sample, noise, masked = (torch.randn(3, 4, 16, 16, generator=generator) for _ in range(3))
    mask = torch.rand(3, 1, 16, 16, generator=generator)
    hidden = torch.randn(3, 2, 8, generator=generator)
    timestep = torch.tensor([0.0, 431.0, 999.0])
    coeffs = torch.tensor([[0.5, 0.9, -0.4, 0.1], [1.0, 1.0, 0.0, 0.0], [0.2, 0.3, 2.0, -0.5]])
    with torch.no_grad():
        c_in, c_sample, c_out, c_noise = (column.reshape(3, 1, 1, 1) for column in coeffs.T)
        velocity = unet(torch.cat([c_in * sample, masked, mask], 1), timestep, hidden)
        expected = c_sample * sample + c_out * velocity + c_noise * noise
    got = run(
        bundle,
        "denoise",
        sample=sample,
        noise=noise,
        timestep=timestep,
        encoder_hidden_states=hidden,
        coeffs=coeffs,
        masked_latents=masked,
        mask=mask,
    )["next_sample"]
    np.testing.assert_allclose(got, expected.numpy(), atol=2e-5)
    assert float(velocity.abs().max()) > 0.01


def test_graphs_are_opset_18_and_tell_nothing_of_the_machine(bundle: Bundle) -> None:
    for name in bundle.manifest.components:
        model = onnx.load(bundle.component_path(name))
        onnx.checker.check_model(model, full_check=True)
        assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
        text = bundle.component_path(name).read_bytes()
        for hint in (b"site-packages", b"stack_trace", str(Path(__file__).parents[2]).encode()):
            assert hint not in text


@pytest.mark.parametrize("relative", ["components/denoise/model.onnx", "golden/denoise.npz", "LICENSES.md"])
def test_a_changed_file_is_noticed(small_bundle: Path, tmp_path: Path, relative: str) -> None:
    copy = shutil.copytree(small_bundle, tmp_path / "copy")
    data = bytearray((copy / relative).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / relative).write_bytes(bytes(data))
    with pytest.raises(BundleError, match="altered"):
        Bundle.open(copy)


def test_manifest_states_every_tensor_with_its_profile(small_bundle: Path) -> None:
    document = json.loads((small_bundle / "manifest.json").read_text())
    denoise = document["components"]["denoise"]
    assert denoise["precision"] == "fp32"
    assert denoise["profile"] == {"batch": [1, 8, 24]}
    assert denoise["inputs"][0] == {"name": "sample", "dtype": "float32", "shape": ["batch", 4, 16, 16]}
    assert [item["name"] for item in denoise["inputs"]][-2:] == ["masked_latents", "mask"]
