"""The denoising loop: a `Schedule` applied by an exported step that holds both the model and the sampler's
update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from agesdk.backends.base import Engine, Tensor, batch_slices
from agesdk.diffusion.schedule import Schedule
from agesdk.errors import BundleError


def denoise(
    engine: Engine,
    schedule: Schedule,
    latents: np.ndarray,
    noise: np.ndarray,
    condition: np.ndarray,
    null_condition: np.ndarray | None = None,
    guidance_scale: float = 1.0,
    extra: Mapping[str, np.ndarray] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Image-to-image: noise the latents as the schedule starts, and run its steps.

    The exported step is affine in the model's output with everything else equal, and the factors of the
    sample and the noise are the same in both halves, so classifier-free guidance applies to its result:
    ``next = next_null + g * (next_condition - next_null)``. Both halves are one batch.

    Parameters
    ----------
    engine:
        A ``denoise`` component: sample, noise, timestep, encoder_hidden_states, coeffs (and the extra
        inputs).
    latents:
        float32 [B, C, h, w], scaled by the VAE's scaling factor. Any B: batches follow the engine's profile.
    noise:
        float32 [1 + schedule.noisy_steps, B, C, h, w]: the noise of the start, then that of the steps that
        take some, in their order.
    condition, null_condition:
        float32 [B, tokens, width].
    guidance_scale:
        No guidance runs at 1 or below, as in diffusers.
    extra:
        Further inputs by name, [B, ...]: ``masked_latents`` and ``mask`` in conditioned mode.
    on_step:
        Called after every step with the number of rows it advanced; what it raises ends the run.

    Returns
    -------
    Tensor
        float32 [B, C, h, w], clean latents: on the backend's device if one batch without guidance took them
        all, else on the host.
    """
    guided = guidance_scale > 1.0
    if guided and null_condition is None:
        raise BundleError(
            "Guidance needs a null condition", "this bundle carries none", "Use a scale of 1 or less"
        )
    parts = batch_slices(engine, len(latents), copies=2 if guided else 1)
    results = []
    for rows in parts:
        part = {name: array[rows] for name, array in (extra or {}).items()}
        part["encoder_hidden_states"] = condition[rows]
        if guided:
            assert null_condition is not None
            part = {name: np.concatenate([array, array]) for name, array in part.items()}
            part["encoder_hidden_states"] = np.concatenate([null_condition[rows], condition[rows]])
        sample = schedule.start_latents * latents[rows] + schedule.start_noise * noise[0, rows]
        fresh = noise[1:, rows]
        if guided:
            sample, fresh = np.concatenate([sample, sample]), np.concatenate([fresh, fresh], axis=1)
        done = run_steps(engine, schedule, sample, fresh, part, guidance_scale, on_step)
        if len(parts) == 1 and not guided:
            return done
        results.append(engine.to_host(done)[: rows.stop - rows.start])
    return np.concatenate(results)


def run_steps(
    engine: Engine,
    schedule: Schedule,
    start: np.ndarray,
    fresh: np.ndarray,
    part: Mapping[str, np.ndarray],
    guidance_scale: float = 1.0,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Run the schedule's steps on one batch; the sample stays where the backend keeps it.

    What all steps share is copied to the device once; a step brings its noise, timestep and coefficients.

    Parameters
    ----------
    start:
        float [B, C, h, w]: the noised latents. With guidance, here and below: both halves, B rows in all.
    fresh:
        float32 [schedule.noisy_steps, B, C, h, w].
    part:
        The step's other inputs: float32 [B, ...].
    guidance_scale:
        Above 1: the first half of the rows is guided by the second.

    Returns
    -------
    Tensor
        float32 [B, C, h, w], clean latents, on the backend's device.
    """
    guided = guidance_scale > 1.0
    batch = len(start)
    sample: Tensor = engine.to_device(start.astype(np.float32, copy=False))
    shared = {name: engine.to_device(array) for name, array in part.items()}
    noises = iter(fresh)
    for step in schedule.steps:
        feeds = {
            "sample": sample,
            # Where c_noise is 0 the graph multiplies its noise by 0, so any tensor of the shape adds nothing;
            # this one is on the device already.
            "noise": next(noises) if step.c_noise else sample,
            "timestep": np.full(batch, step.timestep, dtype=np.float32),
            "coeffs": np.broadcast_to(step.coeffs, (batch, 4)).copy(),
            **shared,
        }
        sample = engine.run(feeds)["next_sample"]
        if guided:
            sample = engine.guide(sample, guidance_scale)
        if on_step is not None:
            on_step(batch // 2 if guided else batch)
    return sample
