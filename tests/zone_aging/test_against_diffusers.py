"""The whole `ZoneAger` against image-to-image written with diffusers, same weights, same noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agesdk.faces.frames import extract_crop
from agesdk.faces.paste import add_change, matched_change, missing_grain
from agesdk.faces.zones import ZONES

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

TARGETS = {"all": 0.7, "crows_feet": 0.2, "upper_lip": 1.0}
SCHEDULERS = {
    "ddim": (diffusers.DDIMScheduler, {"set_alpha_to_one": False, "clip_sample": False}),
    "euler_ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
}
SETTINGS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return math.inf if error == 0.0 else 10.0 * math.log10(255.0**2 / error)


def plain_img2img(tiny, crop, prompt, null_prompt, noise, sampler, steps, strength, guidance, monkeypatch):
    """diffusers' StableDiffusionImg2ImgPipeline in its essentials, for one crop, with the given noise."""
    vae, unet, text_encoder = (tiny.modules[name] for name in ("vae", "unet", "text_encoder"))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tiny.bundle.path / "tokenizer")
    scheduler_class, options = SCHEDULERS[sampler]
    scheduler = scheduler_class(**SETTINGS, **options)
    fresh = iter(torch.from_numpy(array[None]) for array in noise)
    module = __import__(scheduler_class.__module__, fromlist=["randn_tensor"])
    monkeypatch.setattr(
        module, "randn_tensor", lambda shape, **_: next(fresh, torch.zeros(shape)), raising=False
    )

    def embed(text):
        ids = tokenizer(
            text, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        return text_encoder(ids)[0]

    guided = guidance > 1.0
    embeddings = torch.cat([embed(null_prompt), embed(prompt)]) if guided else embed(prompt)
    image = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    posterior = vae.encode(image).latent_dist
    latents = (posterior.mean + posterior.std * next(fresh)) * vae.config.scaling_factor
    scheduler.set_timesteps(steps)
    start = steps - min(int(steps * strength), steps)
    timesteps = scheduler.timesteps[start:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    latents = scheduler.add_noise(latents, next(fresh), timesteps[:1])
    for t in timesteps:
        sample = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, t)
        out = unet(sample, t, encoder_hidden_states=embeddings).sample
        if guided:
            null, full = out.chunk(2)
            out = null + guidance * (full - null)
        latents = scheduler.step(out, t, latents).prev_sample
    decoded = vae.decode(latents / vae.config.scaling_factor).sample
    pixels = (decoded / 2 + 0.5).clamp(0, 1).mul(255).round()
    return pixels[0].permute(1, 2, 0).numpy().astype(np.uint8)


@pytest.mark.parametrize(
    "sampler, steps, strength, guidance",
    [("ddim", 40, 0.2, 0.8), ("ddim", 8, 0.5, 3.0), ("euler_ancestral", 10, 0.4, 1.0)],
)
def test_every_crop_and_the_whole_picture(sd, portrait, sampler, steps, strength, guidance, monkeypatch):
    from dataclasses import replace

    ager = sd.ager(scheduler=replace(sd.bundle.settings.scheduler, sampler=sampler))
    image, face = portrait
    prepared = ager.prepare(image, face)
    options = {"steps": steps, "strength": strength, "guidance_scale": guidance}
    result = ager.age(prepared, TARGETS, seed=11, **options)
    treated = [name for name, zone in result.zones.items() if zone.skipped is None]
    assert len(treated) >= 10
    from agesdk.diffusion.schedule import make_schedule

    noise = ager.model.draw_noise(make_schedule(ager.model.settings.scheduler, steps, strength), 11)

    picture = image.copy()
    for name in sorted(treated, key=lambda name: result.zones[name].wave):
        source = prepared.crops[name]
        crop = extract_crop(picture, source.transform, 128)
        words = source.zone.kind.replace("_", " ")
        percent = round(100 * result.zones[name].target)
        expected = plain_img2img(
            sd,
            crop,
            f"image of {words} wrinkles with an aging score of {percent}%",
            f"image of {words}",
            noise[name],
            sampler,
            steps,
            strength,
            guidance,
            monkeypatch,
        )
        assert psnr(result.zones[name].crop, expected) >= 50.0, name
        difference = matched_change(expected, crop, source.paste_mask)
        difference += missing_grain(expected, crop, source.paste_mask, ZONES.index(source.zone))
        add_change(picture, difference, source.paste_mask, source.transform)
    assert psnr(result.image, picture) >= 50.0
    assert psnr(result.image, image) < 40.0, "the random model changed nothing: the comparison shows nothing"
