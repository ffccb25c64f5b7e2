"""The conditioned mode against the torch modules, driven as the training code drives them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agesdk.diffusion.schedule import make_schedule
from agesdk.faces.paste import add_change
from agesdk.faces.skin import blur_inside
from agesdk.faces.zones import ZONE_KINDS

torch = pytest.importorskip("torch")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return math.inf if error == 0.0 else 10.0 * math.log10(255.0**2 / error)


def to_tensor(crop: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1.0


def to_pixels(image: torch.Tensor) -> np.ndarray:
    return image.mul(127.5).add(127.5).clamp(0, 255).round()[0].permute(1, 2, 0).numpy().astype(np.uint8)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", ["forehead", "crows_feet_right", "nasolabial_left"])
def test_a_zone_equals_the_modules_own_sampling(small, portrait, name, guidance):
    vae, unet, condition = (small.modules[key] for key in ("vae", "unet", "condition_encoder"))
    ager = small.ager()
    prepared = ager.prepare(*portrait)
    result = ager.age(prepared, {name: 0.9}, seed=3, guidance_scale=guidance)

    source, settings = prepared.crops[name], ager.model.settings
    schedule = make_schedule(settings.scheduler, settings.defaults.steps, settings.defaults.strength)
    noise = torch.from_numpy(ager.model.draw_noise(schedule, 3)[name])
    with torch.no_grad():
        mean = vae.encode(to_tensor(source.pixels))[0]
        blurred = blur_inside(source.pixels, source.skin, settings.blur_sigma)
        masked = vae.encode(to_tensor(blurred))[0]
        mask = torch.nn.functional.avg_pool2d(torch.from_numpy(source.skin)[None, None], 8)
        zone = torch.tensor([ZONE_KINDS.index(source.zone.kind)])
        hidden, null = (condition(zone, torch.tensor([score])) for score in (0.9, -1.0))
        sample = schedule.start_latents * mean + schedule.start_noise * noise[:1]
        for step in schedule.steps:
            seen = torch.cat([step.c_in * sample, masked, mask], dim=1)
            output = unet(seen, torch.tensor([step.timestep]), hidden)
            if guidance > 1.0:
                without = unet(seen, torch.tensor([step.timestep]), null)
                output = without + guidance * (output - without)
            sample = step.c_sample * sample + step.c_out * output
        made, round_trip = to_pixels(vae.decode(sample)), to_pixels(vae.decode(mean))
    assert psnr(result.zones[name].crop, made) >= 50.0
    pasted = portrait[0].copy()
    add_change(pasted, made.astype(np.float32) - round_trip, source.paste_mask, source.transform)
    assert psnr(result.image, pasted) >= 50.0
    assert (made != round_trip).mean() > 0.3
