"""Samplers as tables of coefficients.

Every sampler here is linear in the sample, the model's output and fresh noise, so one step is four scalars:

    next = c_sample * sample + c_out * model(c_in * sample, timestep) + c_noise * noise

whether the model predicts the noise (epsilon) or the velocity (v): v too is linear in sample and output. A
sampler is one short pure function from settings to a `Schedule`; the loop that applies it is in
`denoiser.py`.

Strength has the meaning of diffusers' image-to-image pipelines. For DDIM and Euler ancestral the last
`int(steps * strength)` of `steps` timesteps are run; for LCM `steps` timesteps are spread over the last
`int(original_inference_steps * strength)` steps of the distillation schedule, so all of them are run.

`a` below is the cumulative product of the alphas (Ho et al. 2020), sigma = sqrt((1 - a) / a). Float64
throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agesdk.errors import BundleError, TargetError, UsageError
from agesdk.manifest import SchedulerSettings


@dataclass(frozen=True)
class Step:
    """One evaluation of the model and the four scalars that make the next sample of it."""

    timestep: float
    c_in: float
    c_sample: float
    c_out: float
    c_noise: float

    @property
    def coeffs(self) -> np.ndarray:
        """float32 [4] in the order the exported graph takes them: c_in, c_sample, c_out, c_noise."""
        return np.array([self.c_in, self.c_sample, self.c_out, self.c_noise], dtype=np.float32)


@dataclass(frozen=True)
class Schedule:
    """The start of an image-to-image run, `sample = start_latents * latents + start_noise * noise`, and its
    steps.
    """

    start_latents: float
    start_noise: float
    steps: tuple[Step, ...]

    @property
    def noisy_steps(self) -> int:
        """Steps that take fresh noise."""
        return sum(step.c_noise != 0.0 for step in self.steps)


def make_schedule(settings: SchedulerSettings, steps: int, strength: float) -> Schedule:
    """The table of steps of the manifest's sampler.

    Parameters
    ----------
    steps:
        Steps of the whole schedule, 1 to `settings.num_train_timesteps`.
    strength:
        How far towards pure noise the run starts, in (0, 1].

    Raises
    ------
    TargetError
        Strength outside (0, 1].
    UsageError
        Too few or too many steps, or a combination that runs no step at all.
    BundleError
        A sampler, spacing, beta schedule or prediction type that does not exist.
    """
    if settings.sampler not in SAMPLERS:
        raise BundleError(
            f'The sampler "{settings.sampler}" is unknown.', f"This version has {', '.join(SAMPLERS)}."
        )
    if not 0.0 < strength <= 1.0:
        raise TargetError(
            f"The strength {strength} is out of range.", "", "Give a number above 0 and up to 1."
        )
    if not 1 <= steps <= settings.num_train_timesteps:
        raise UsageError(
            f"{steps} steps are out of range.", "", f"Give 1 to {settings.num_train_timesteps} steps."
        )
    schedule = SAMPLERS[settings.sampler](settings, steps, strength)
    if not schedule.steps:
        raise UsageError(
            f"{steps} steps at strength {strength} run no step at all.",
            "Only int(steps * strength) of them are run.",
            f"Give at least {int(np.ceil(1.0 / strength))} steps or a higher strength.",
        )
    return schedule


def ddim(settings: SchedulerSettings, steps: int, strength: float) -> Schedule:
    """DDIM without noise (Song et al. 2020, arXiv:2010.02502, eq. 12 with sigma = 0)."""
    alphas = alphas_cumprod(settings)
    final = 1.0 if settings.set_alpha_to_one else alphas[0]
    timesteps = _spaced_timesteps(settings, steps).round().astype(int)
    stride = settings.num_train_timesteps // steps
    table = []
    run = _last(timesteps, steps, strength)
    for t in run:
        a, a_next = alphas[t], alphas[t - stride] if t >= stride else final
        # next = sqrt(a_next) x0 + sqrt(1 - a_next) eps
        x0, eps = _x0_and_eps(a, settings)
        table.append(_step(t, 1.0, np.sqrt(a_next) * x0 + np.sqrt(1.0 - a_next) * eps, 0.0))
    return _schedule(_noised(alphas, run), table)


def euler_ancestral(settings: SchedulerSettings, steps: int, strength: float) -> Schedule:
    """Ancestral sampling with Euler steps in the sigma parameterisation (Karras et al. 2022,
    arXiv:2206.00364).

    The sample is x = x0 + sigma * noise; the model sees x / sqrt(sigma^2 + 1). Each step goes down to
    sigma_down and adds sigma_up of fresh noise, where sigma_up^2 + sigma_down^2 = sigma_next^2.
    """
    alphas = alphas_cumprod(settings)
    timesteps = _spaced_timesteps(settings, steps)
    all_sigmas = np.sqrt((1.0 - alphas) / alphas)
    sigmas = np.append(np.interp(timesteps, np.arange(len(alphas)), all_sigmas), 0.0)
    run = _last(timesteps, steps, strength)
    table = []
    for i, t in enumerate(run, start=len(timesteps) - len(run)):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        up = np.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2)
        down = np.sqrt(sigma_next**2 - up**2)
        scale = 1.0 / np.sqrt(sigma**2 + 1.0)
        # next = x + (x - x0) / sigma * (down - sigma); (x - x0) / sigma is the predicted noise
        _, eps = _x0_and_eps(scale**2, settings)
        derivative = np.array([eps[0] * scale, eps[1]])
        table.append(_step(t, scale, np.array([1.0, 0.0]) + (down - sigma) * derivative, up))
    start = (1.0, sigmas[len(timesteps) - len(run)]) if len(run) else (1.0, 0.0)
    return _schedule(start, table)


def lcm(settings: SchedulerSettings, steps: int, strength: float) -> Schedule:
    """Multistep latent consistency sampling (Luo et al. 2023, arXiv:2310.04378, algorithm 3).

    Every step jumps to the predicted clean latent, c_skip * x + c_boundary * x0, and back to the next
    timestep with fresh noise; the last one stays.
    """
    alphas = alphas_cumprod(settings)
    original = settings.original_inference_steps
    available = int(original * strength)
    if steps > available:
        raise UsageError(
            f"{steps} LCM steps at strength {strength} are too many.",
            f"int({original} * strength) = {available} timesteps are available.",
            "Give fewer steps or a higher strength.",
        )
    distilled = np.arange(available, 0, -1) * (settings.num_train_timesteps // original) - 1
    run = distilled[np.floor(np.linspace(0, available, steps, endpoint=False)).astype(int)]
    table = []
    for i, t in enumerate(run):
        x0, _ = _x0_and_eps(alphas[t], settings)
        scaled = _LCM_TIMESTEP_SCALING * t
        skip = _LCM_SIGMA_DATA**2 / (scaled**2 + _LCM_SIGMA_DATA**2)
        boundary = scaled / np.sqrt(scaled**2 + _LCM_SIGMA_DATA**2)
        clean = boundary * x0 + np.array([skip, 0.0])
        a_next = alphas[run[i + 1]] if i + 1 < len(run) else 1.0
        table.append(_step(t, 1.0, np.sqrt(a_next) * clean, np.sqrt(1.0 - a_next)))
    return _schedule(_noised(alphas, run), table)


_LCM_TIMESTEP_SCALING = 10.0
_LCM_SIGMA_DATA = 0.5

SAMPLERS: dict[str, Callable[[SchedulerSettings, int, float], Schedule]] = {
    "ddim": ddim,
    "euler_ancestral": euler_ancestral,
    "lcm": lcm,
}


def alphas_cumprod(settings: SchedulerSettings) -> np.ndarray:
    """float64 [num_train_timesteps]: the cumulative product of 1 - beta."""
    n, low, high = settings.num_train_timesteps, settings.beta_start, settings.beta_end
    if settings.beta_schedule == "linear":
        betas = np.linspace(low, high, n)
    elif settings.beta_schedule == "scaled_linear":
        betas = np.linspace(np.sqrt(low), np.sqrt(high), n) ** 2
    elif settings.beta_schedule == "squaredcos_cap_v2":
        # Nichol and Dhariwal 2021, eq. 17, with betas capped at 0.999.
        bar = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2.0) ** 2
        betas = np.minimum(1.0 - bar[1:] / bar[:-1], 0.999)
    else:
        raise BundleError(f'The beta schedule "{settings.beta_schedule}" is unknown.')
    product: np.ndarray = np.cumprod(1.0 - betas)
    return product


def _spaced_timesteps(settings: SchedulerSettings, steps: int) -> np.ndarray:
    """float64 [steps], falling (Lin et al. 2023, arXiv:2305.08891, table 2); only linspace has fractions."""
    n = settings.num_train_timesteps
    if settings.timestep_spacing == "linspace":
        return np.linspace(0.0, n - 1.0, steps)[::-1]
    if settings.timestep_spacing == "leading":
        spaced = np.arange(steps)[::-1] * float(n // steps) + settings.steps_offset
        return np.asarray(np.minimum(spaced, n - 1.0))
    if settings.timestep_spacing == "trailing":
        return np.asarray(np.round(n - np.arange(steps) * (n / steps)) - 1.0)
    raise BundleError(f'The timestep spacing "{settings.timestep_spacing}" is unknown.')


def _last(timesteps: np.ndarray, steps: int, strength: float) -> np.ndarray:
    """The last int(steps * strength) timesteps: those an image-to-image run goes through."""
    return timesteps[steps - min(int(steps * strength), steps) :]


def _x0_and_eps(a: float, settings: SchedulerSettings) -> tuple[np.ndarray, np.ndarray]:
    """The clean latent and the noise as pairs (factor of the sample, factor of the model's output).

    The sample is sqrt(a) x0 + sqrt(1 - a) eps; v = sqrt(a) eps - sqrt(1 - a) x0 (Salimans and Ho 2022,
    arXiv:2202.00512, section 4).
    """
    signal, noise = np.sqrt(a), np.sqrt(1.0 - a)
    if settings.prediction_type == "epsilon":
        return np.array([1.0 / signal, -noise / signal]), np.array([0.0, 1.0])
    if settings.prediction_type == "v_prediction":
        return np.array([signal, -noise]), np.array([noise, signal])
    raise BundleError(f'The prediction type "{settings.prediction_type}" is unknown.')


def _noised(alphas: np.ndarray, run: np.ndarray) -> tuple[float, float]:
    return (np.sqrt(alphas[run[0]]), np.sqrt(1.0 - alphas[run[0]])) if len(run) else (1.0, 0.0)


def _step(timestep: float, c_in: float, sample_and_out: np.ndarray, c_noise: float) -> Step:
    return Step(
        float(timestep), float(c_in), float(sample_and_out[0]), float(sample_and_out[1]), float(c_noise)
    )


def _schedule(start: tuple[float, float], table: list[Step]) -> Schedule:
    return Schedule(float(start[0]), float(start[1]), tuple(table))
