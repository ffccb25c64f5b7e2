"""A Stable-Diffusion-layout checkpoint, exported, against diffusers and transformers themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    LCMScheduler,
    UNet2DConditionModel,
)
from diffusers.image_processor import VaeImageProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from agesdk.backends import Engine, load_engine
from agesdk.bundle import Bundle, ZoneAgingSettings
from agesdk.diffusion.prompts import ClipTokenizer
from agesdk.diffusion.schedule import make_schedule
from agesdk.manifest import SchedulerSettings
from export.checkpoint import EXPECTED, load_module

COMPONENTS = {"vae_encoder", "vae_decoder", "text_encoder", "score_net", "denoise", "refiner_denoise"}


@pytest.fixture(scope="module")
def bundle(sd_bundle: Path) -> Bundle:
    return Bundle.open(sd_bundle, kind="zone-aging")


def engine(bundle: Bundle, name: str) -> Engine:
    return load_engine(bundle, name, threads=1)


def picture(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_bundle_has_all_components_and_nothing_unlisted(bundle: Bundle) -> None:
    assert set(bundle.manifest.components) == COMPONENTS
    assert bundle.unlisted_files() == []
    assert bundle.has_file("LICENSES.md")
    assert bundle.has_file("tokenizer/vocab.json") and bundle.has_file("tokenizer/merges.txt")


def test_settings_are_those_of_the_paper_and_the_checkpoint(bundle: Bundle) -> None:
    settings = bundle.settings
    assert isinstance(settings, ZoneAgingSettings)
    assert (settings.mode, settings.paste, settings.latent_channels) == ("plain", "blend", 4)
    assert (settings.defaults.steps, settings.defaults.strength) == (40, 0.2)
    assert settings.scheduler.beta_schedule == "scaled_linear"
    assert settings.refiner is not None and settings.refiner.component == "refiner_denoise"


@pytest.mark.parametrize("name", sorted(COMPONENTS))
def test_goldens_hold_on_onnx_runtime(bundle: Bundle, name: str) -> None:
    golden = bundle.golden(name)
    feeds = {key[6:]: array for key, array in golden.items() if key.startswith("input.")}
    outputs = engine(bundle, name).run(feeds)
    assert set(outputs) == {key[7:] for key in golden if key.startswith("output.")}
    for key, got in outputs.items():
        expected = golden[f"output.{key}"]
        tolerance = 1 if expected.dtype == np.uint8 else 2e-5
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got.astype(float), expected.astype(float), atol=tolerance)


@pytest.mark.parametrize("shape", [(1, 128, 128, 3), (5, 128, 192, 3)])
def test_encoder_gives_the_scaled_posterior_of_diffusers(
    bundle: Bundle, sd_checkpoint: Path, shape: tuple[int, ...]
) -> None:
    vae = AutoencoderKL.from_pretrained(str(sd_checkpoint / "vae"))
    image = picture(*shape)
    pixels = VaeImageProcessor().preprocess(image.astype(np.float32) / 255.0)
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
    outputs = engine(bundle, "vae_encoder").run({"image": image})
    np.testing.assert_allclose(outputs["mean"], posterior.mean.numpy() * 0.18215, atol=1e-5)
    np.testing.assert_allclose(outputs["std"], posterior.std.numpy() * 0.18215, atol=1e-5)


def test_decoder_rounds_and_clips_as_diffusers(bundle: Bundle, sd_checkpoint: Path) -> None:
    vae = AutoencoderKL.from_pretrained(str(sd_checkpoint / "vae"))
    latents = 4.0 * normal(3, 4, 16, 24)
    with torch.no_grad():
        pixels = vae.decode(torch.from_numpy(latents) / 0.18215).sample
    expected = VaeImageProcessor.numpy_to_pil(VaeImageProcessor().postprocess(pixels, output_type="np"))
    got = engine(bundle, "vae_decoder").run({"latents": latents})["image"]
    difference = np.abs(got.astype(int) - np.stack([np.asarray(item) for item in expected]).astype(int))
    assert got.shape == (3, 128, 192, 3)
    assert difference.max() <= 1 and difference.mean() < 1e-3


def test_prompts_give_the_hidden_states_of_transformers(bundle: Bundle, sd_checkpoint: Path) -> None:
    prompts = ["image of forehead wrinkles with an aging score of 70%", "image of upper lip", ""]
    tokenizer = CLIPTokenizer.from_pretrained(str(sd_checkpoint / "tokenizer"))
    text_model = CLIPTextModel.from_pretrained(str(sd_checkpoint / "text_encoder"))
    ids = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = text_model(ids)[0].numpy()
    ours = ClipTokenizer(bundle)(prompts)
    np.testing.assert_array_equal(ours, ids.numpy())
    got = engine(bundle, "text_encoder").run({"input_ids": ours})["encoder_hidden_states"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_score_net_is_the_checkpoints(bundle: Bundle, sd_checkpoint: Path) -> None:
    score_net = load_module(sd_checkpoint / "score_net", EXPECTED["score_net"])
    latents, zone = normal(8, 4, 16, 16), np.arange(8)
    with torch.no_grad():
        expected = score_net(torch.from_numpy(latents), torch.from_numpy(zone)).numpy()
    got = engine(bundle, "score_net").run({"latents": latents, "zone": zone})["score"]
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.ptp(got) > 0


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "lcm"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_folded_step_equals_unet_and_scheduler_of_diffusers(
    bundle: Bundle, sd_checkpoint: Path, sampler: str, prediction_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, strength = 6, 1.0
    # The real schedule's start; the trained range is written as in Stable Diffusion.
    noise_schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    options = {**noise_schedule, "prediction_type": prediction_type, "steps_offset": 1}
    scheduler = {
        "ddim": lambda: DDIMScheduler(**options, clip_sample=False, set_alpha_to_one=False),
        "euler_ancestral": lambda: EulerAncestralDiscreteScheduler(**options, timestep_spacing="leading"),
        "lcm": lambda: LCMScheduler(**noise_schedule, prediction_type=prediction_type, clip_sample=False),
    }[sampler]()
    scheduler.set_timesteps(steps)
    table = make_schedule(
        SchedulerSettings(
            sampler=sampler,
            prediction_type=prediction_type,
            steps_offset=0 if sampler == "lcm" else 1,
            set_alpha_to_one=sampler == "lcm",
        ),
        steps,
        strength,
    )
    unet = UNet2DConditionModel.from_pretrained(str(sd_checkpoint / "unet"))
    noises = normal(steps, 2, 4, 16, 16, seed=3)
    start, hidden = normal(2, 4, 16, 16), normal(2, 77, 16, seed=1)
    denoise = engine(bundle, "denoise")

    sample = torch.from_numpy(start) * float(scheduler.init_noise_sigma)
    ours = start * np.float32(scheduler.init_noise_sigma)
    for index, (timestep, step) in enumerate(zip(scheduler.timesteps, table.steps, strict=True)):
        noise = torch.from_numpy(noises[index])
        for name in ("lcm", "euler_ancestral_discrete"):
            module = f"diffusers.schedulers.scheduling_{name}"
            monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, noise=noise, **__: noise)
        with torch.no_grad():
            model_input = scheduler.scale_model_input(sample, timestep)
            output = unet(model_input, timestep, torch.from_numpy(hidden)).sample
        sample = scheduler.step(output, timestep, sample).prev_sample
        feeds = {
            "sample": ours,
            "noise": noises[index],
            "timestep": np.full(2, step.timestep, np.float32),
            "encoder_hidden_states": hidden,
            "coeffs": np.tile(step.coeffs, (2, 1)),
        }
        ours = denoise.run(feeds)["next_sample"]
    scale = float(sample.abs().max())
    np.testing.assert_allclose(ours, sample.numpy(), atol=2e-4 * scale)


def test_refiner_takes_faces_of_any_size(bundle: Bundle, sd_checkpoint: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(str(sd_checkpoint / "unet"))
    sample, hidden = normal(1, 4, 40, 56), normal(1, 77, 16)
    timestep = np.array([321.0], np.float32)
    with torch.no_grad():
        expected = unet(torch.from_numpy(sample), torch.from_numpy(timestep), torch.from_numpy(hidden)).sample
    feeds = {
        "sample": sample,
        "noise": np.zeros_like(sample),
        "timestep": timestep,
        "encoder_hidden_states": hidden,
        "coeffs": np.array([[1.0, 0.0, 1.0, 0.0]], np.float32),
    }
    got = engine(bundle, "refiner_denoise").run(feeds)["next_sample"]
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)
