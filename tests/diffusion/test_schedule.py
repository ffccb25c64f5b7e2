"""The tables of steps against diffusers' own schedulers, driven the way its image-to-image pipelines drive
them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agesdk.diffusion.schedule import Schedule, alphas_cumprod, make_schedule
from agesdk.errors import TargetError, UsageError
from agesdk.manifest import SchedulerSettings

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SETTINGS = SchedulerSettings()
SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "v_prediction")
SHAPE = (1, 4, 6, 6)


def model(sample: np.ndarray, timestep: float) -> np.ndarray:
    """A stand-in for a UNet: smooth, bounded, depends on the sample, the timestep and the position."""
    ramp = np.linspace(-1.0, 1.0, sample.size).reshape(sample.shape)
    return np.tanh(sample * (0.6 + timestep / 2000.0) + 0.3 * ramp) + 0.1 * np.sin(7.0 * sample)


def run_table(schedule: Schedule, latents: np.ndarray, noise: list[np.ndarray]) -> list[np.ndarray]:
    fresh = iter(noise)
    sample = schedule.start_latents * latents + schedule.start_noise * next(fresh)
    trajectory = [sample]
    for step in schedule.steps:
        out = model(step.c_in * sample, step.timestep)
        sample = step.c_sample * sample + step.c_out * out
        if step.c_noise:
            sample = sample + step.c_noise * next(fresh)
        trajectory.append(sample)
    return trajectory


def diffusers_scheduler(settings: SchedulerSettings):
    shared = {
        "num_train_timesteps": settings.num_train_timesteps,
        "beta_start": settings.beta_start,
        "beta_end": settings.beta_end,
        "beta_schedule": settings.beta_schedule,
        "prediction_type": settings.prediction_type,
        "timestep_spacing": settings.timestep_spacing,
        "steps_offset": settings.steps_offset,
    }
    if settings.sampler == "euler_ancestral":
        return diffusers.EulerAncestralDiscreteScheduler(**shared)
    shared.update(set_alpha_to_one=settings.set_alpha_to_one, clip_sample=False)
    if settings.sampler == "ddim":
        return diffusers.DDIMScheduler(**shared)
    return diffusers.LCMScheduler(original_inference_steps=settings.original_inference_steps, **shared)


def run_diffusers(
    settings: SchedulerSettings,
    steps: int,
    strength: float,
    latents: np.ndarray,
    noise: list[np.ndarray],
    monkeypatch,
) -> list[np.ndarray]:
    """The loop of diffusers' img2img pipelines, in float64, with the given noise for its generator's."""
    scheduler = diffusers_scheduler(settings)
    if settings.sampler == "lcm":
        scheduler.set_timesteps(steps, strength=strength)
        timesteps = scheduler.timesteps
    else:
        scheduler.set_timesteps(steps)
        start = max(steps - min(int(steps * strength), steps), 0)
        timesteps = scheduler.timesteps[start:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
    fresh = iter(torch.from_numpy(array) for array in noise)
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(fresh), raising=False)
    sample = scheduler.add_noise(torch.from_numpy(latents), next(fresh), timesteps[:1])
    trajectory = [sample.numpy()]
    for t in timesteps:
        out = model(scheduler.scale_model_input(sample, t).numpy(), float(t))
        # The last ancestral step draws noise that its zero sigma_up discards; one spare array is there for
        # it.
        sample = scheduler.step(torch.from_numpy(out), t, sample).prev_sample.double()
        trajectory.append(sample.numpy())
    return trajectory


def compare(settings: SchedulerSettings, steps: int, strength: float, monkeypatch) -> None:
    rng = np.random.default_rng(steps)
    latents = rng.standard_normal(SHAPE)
    noise = [rng.standard_normal(SHAPE) for _ in range(steps + 2)]
    schedule = make_schedule(settings, steps, strength)
    ours = run_table(schedule, latents, noise)
    theirs = run_diffusers(settings, steps, strength, latents, noise, monkeypatch)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        # diffusers keeps its tables in float32: relative to the sample's own size, which is sigma for Euler.
        np.testing.assert_allclose(mine / np.abs(other).max(), other / np.abs(other).max(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps, strength", [(4, 1.0), (10, 0.5), (25, 0.3), (40, 0.2), (50, 0.8), (8, 0.13)])
@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral"])
def test_trajectory_equals_diffusers(sampler, steps, strength, spacing, prediction_type, monkeypatch):
    settings = replace(SETTINGS, sampler=sampler, timestep_spacing=spacing, prediction_type=prediction_type)
    compare(settings, steps, strength, monkeypatch)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize(
    "steps, strength, original", [(1, 0.2, 50), (4, 1.0, 50), (4, 0.5, 50), (7, 0.9, 30), (8, 0.2, 40)]
)
def test_lcm_trajectory_equals_diffusers(steps, strength, original, prediction_type, monkeypatch):
    settings = replace(
        SETTINGS, sampler="lcm", prediction_type=prediction_type, original_inference_steps=original
    )
    compare(settings, steps, strength, monkeypatch)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("steps_offset, set_alpha_to_one", [(0, True), (1, False), (0, False)])
def test_beta_schedules_offsets_and_last_alpha(beta_schedule, steps_offset, set_alpha_to_one, monkeypatch):
    settings = replace(
        SETTINGS, beta_schedule=beta_schedule, steps_offset=steps_offset, set_alpha_to_one=set_alpha_to_one
    )
    np.testing.assert_allclose(
        alphas_cumprod(settings), diffusers_scheduler(settings).alphas_cumprod.numpy(), rtol=2e-4, atol=1e-7
    )
    compare(settings, 20, 0.4, monkeypatch)


def test_the_papers_setting_runs_eight_steps():
    schedule = make_schedule(SETTINGS, steps=40, strength=0.2)
    assert [step.timestep for step in schedule.steps] == [176, 151, 126, 101, 76, 51, 26, 1]
    assert schedule.noisy_steps == 0


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "lcm"])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_a_perfect_model_gives_the_clean_latent(sampler, prediction_type):
    """With the true noise (or velocity) for the output and no fresh noise, the last step ends at x0."""
    settings = replace(SETTINGS, sampler=sampler, prediction_type=prediction_type, set_alpha_to_one=True)
    alphas = alphas_cumprod(settings)
    schedule = make_schedule(settings, 5, 0.8)
    x0, noise = 0.7, -1.3
    sample = schedule.start_latents * x0 + schedule.start_noise * noise
    for step in schedule.steps:
        signal, sigma = (np.sqrt(alphas[int(step.timestep)]), np.sqrt(1.0 - alphas[int(step.timestep)]))
        eps = (step.c_in * sample - signal * x0) / sigma
        out = eps if prediction_type == "epsilon" else signal * eps - sigma * x0
        sample = step.c_sample * sample + step.c_out * out
    tolerance = 1e-3 if sampler == "lcm" else 1e-9
    assert sample == pytest.approx(x0, abs=tolerance)


@pytest.mark.parametrize(
    "steps, strength, error, text",
    [
        (40, 0.0, TargetError, "strength"),
        (40, 1.1, TargetError, "strength"),
        (0, 0.5, UsageError, "steps"),
        (1001, 0.5, UsageError, "1000"),
        (4, 0.2, UsageError, "at least 5 steps"),
    ],
)
def test_senseless_settings_are_told(steps, strength, error, text):
    with pytest.raises(error, match=text):
        make_schedule(SETTINGS, steps, strength)


def test_too_many_lcm_steps_are_told():
    with pytest.raises(UsageError, match="10 timesteps are available"):
        make_schedule(replace(SETTINGS, sampler="lcm"), 11, 0.2)
