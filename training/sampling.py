"""Image-to-image sampling with the torch modules: what the runtime does with ONNX graphs, for validation and
tuning.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from agesdk.diffusion.schedule import Schedule

Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy latents [B, C, h, w], timestep [B], score [B]; negative: zone prompt) → model output [B, C, h, w].
"""


@torch.no_grad()
def image_to_image(
    predict: Predictor,
    schedule: Schedule,
    latents: Tensor,
    noise: Tensor,
    score: Tensor,
    guidance_scale: float,
) -> Tensor:
    """Runs a schedule from noised source latents; DDIM only (no fresh noise).

    latents, noise: float32 [B, C, h, w]; score: float32 [B], the condition. With ``guidance_scale`` g above 1
    the next sample is ``null + g · (conditioned − null)``, which equals guidance on the model's output, as a
    step is affine in it.
    """
    sample = schedule.start_latents * latents + schedule.start_noise * noise
    null = torch.full_like(score, -1.0)
    for step in schedule.steps:
        timestep = torch.full((len(latents),), step.timestep, device=latents.device)
        output = predict(step.c_in * sample, timestep, score)
        if guidance_scale > 1.0:
            without = predict(step.c_in * sample, timestep, null)
            output = without + guidance_scale * (output - without)
        sample = step.c_sample * sample + step.c_out * output
    return sample
