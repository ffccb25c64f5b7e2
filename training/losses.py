"""The objective of LDLA ("Locally Controlled Face Aging with Latent Diffusion Models"), equations 1 to 6.

Every function is pure: tensors in, tensors out, no models. The trainer calls the UNet and ScoreNet and hands
their outputs over. Shapes: latents, noise and model outputs ``[B, C, h, w]``, masks ``[B, 1, h, w]`` in 0..1,
timesteps int64 ``[B]``, scores ``[B]`` in 0..1, ``alphas_cumprod`` ``[T]`` (ᾱ of the noise schedule). Every
loss is a float32
scalar: the mean over the batch of a per-sample mean, so that the gradient of several equally filled
processes, averaged, is the gradient of one process with the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = "epsilon"
V_PREDICTION = "v_prediction"
PREDICTION_TYPES = (EPSILON, V_PREDICTION)


@dataclass(frozen=True)
class LossWeights:
    """The λ of equation 6."""

    full: float = 1.0
    zone: float = 1.0
    cycle: float = 1.0
    score: float = 1.0


def signal_and_noise_rates(alphas_cumprod: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ_t and √(1−ᾱ_t), float32 ``[B, 1, 1, 1]``, for timesteps ``[B]``."""
    alpha = alphas_cumprod.to(device=timesteps.device, dtype=torch.float32)[timesteps].reshape(-1, 1, 1, 1)
    return alpha.sqrt(), (1.0 - alpha).sqrt()


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """z_t = √ᾱ_t·z_0 + √(1−ᾱ_t)·ε: the forward process of DDPM, float32 ``[B, C, h, w]``."""
    signal, sigma = signal_and_noise_rates(alphas_cumprod, timesteps)
    return signal * latents.float() + sigma * noise.float()


def velocity(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """v = √ᾱ_t·ε − √(1−ᾱ_t)·z_0 (Salimans and Ho 2022, section 4), float32 ``[B, C, h, w]``."""
    signal, sigma = signal_and_noise_rates(alphas_cumprod, timesteps)
    return signal * noise.float() - sigma * latents.float()


def prediction_target(
    latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor, prediction_type: str
) -> Tensor:
    """What the UNet is to give: ε itself, or v for a v-prediction model; float32 ``[B, C, h, w]``."""
    if prediction_type == EPSILON:
        return noise.float()
    if prediction_type == V_PREDICTION:
        return velocity(latents, noise, alphas_cumprod, timesteps)
    raise ValueError(
        f"prediction type '{prediction_type}' is unknown: use one of {', '.join(PREDICTION_TYPES)}"
    )


def one_step_estimate(
    noisy_latents: Tensor,
    model_output: Tensor,
    alphas_cumprod: Tensor,
    timesteps: Tensor,
    prediction_type: str,
) -> Tensor:
    """Equation 4: the clean latent estimated from one model call, float32 ``[B, C, h, w]``.

    ẑ_0 = (z_t − √(1−ᾱ_t)·ε_θ) / √ᾱ_t for ε-prediction, ẑ_0 = √ᾱ_t·z_t − √(1−ᾱ_t)·v_θ for v-prediction.
    Differentiable in the model output.
    """
    signal, sigma = signal_and_noise_rates(alphas_cumprod, timesteps)
    noisy, output = noisy_latents.float(), model_output.float()
    if prediction_type == EPSILON:
        return (noisy - sigma * output) / signal
    if prediction_type == V_PREDICTION:
        return signal * noisy - sigma * output
    raise ValueError(
        f"prediction type '{prediction_type}' is unknown: use one of {', '.join(PREDICTION_TYPES)}"
    )


def weighted_mse(
    prediction: Tensor, target: Tensor, mask: Tensor | None = None, sample_weight: Tensor | None = None
) -> Tensor:
    """Mean over the batch of each sample's mask-weighted mean squared difference.

    For a sample: Σ m·(p−y)² / (C·Σ m). A sample whose mask is empty counts as 0. ``sample_weight`` ``[B]``
    multiplies the per-sample means (their average is still divided by B).
    """
    squared = (prediction.float() - target.float()).square()
    if mask is None:
        per_sample = squared.flatten(1).mean(dim=1)
    else:
        weight = mask.float().expand(-1, 1, *squared.shape[2:])
        total = (weight * squared).flatten(1).sum(dim=1)
        per_sample = total / (squared.shape[1] * weight.flatten(1).sum(dim=1)).clamp_min(1e-8)
    if sample_weight is not None:
        per_sample = per_sample * sample_weight.float()
    return per_sample.mean()


def full_loss(
    model_output: Tensor, target: Tensor, mask: Tensor | None = None, sample_weight: Tensor | None = None
) -> Tensor:
    """L_full, equation 1: E‖y − f_θ(z_t, t, c_full)‖².

    ``model_output`` is the UNet's under the full condition (zone, score, ethnicity); ``target`` comes from
    `prediction_target` (ε in the paper).
    """
    return weighted_mse(model_output, target, mask, sample_weight)


def zone_loss(
    model_output: Tensor, target: Tensor, mask: Tensor | None = None, sample_weight: Tensor | None = None
) -> Tensor:
    """L_zone, equation 2: E‖y − f_θ(z_t, t, c_zone)‖², where the condition names the zone only.

    It keeps the prior of the zone alive and makes the zone prompt the null condition of guidance.
    """
    return weighted_mse(model_output, target, mask, sample_weight)


def cycle_loss(
    latents: Tensor, cycled_estimate: Tensor, mask: Tensor | None = None, sample_weight: Tensor | None = None
) -> Tensor:
    """L_cycle, equation 3: E‖z_0 − ẑ_0(ẑ_0(z_t, c_target), c_full)‖², in latent space.

    ``cycled_estimate`` is the one-step estimate (equation 4) under the true full condition, started from the
    re-noised one-step estimate under the condition with a random target score: going to the target and back
    gives the source.
    """
    return weighted_mse(cycled_estimate, latents, mask, sample_weight)


def score_loss(predicted_score: Tensor, target_score: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """L_score, equation 5: E(S(ẑ_0(z_t, c_target)) − s_target)², with S the ScoreNet and s_target the random
    target.

    ``predicted_score`` and ``target_score``: ``[B]`` in 0..1.
    """
    squared = (predicted_score.float() - target_score.float()).square()
    return (squared if sample_weight is None else squared * sample_weight.float()).mean()


def total_loss(
    full: Tensor | None,
    zone: Tensor | None,
    cycle: Tensor | None,
    score: Tensor | None,
    weights: LossWeights,
) -> Tensor:
    """Equation 6: L = λ_full·L_full + λ_zone·L_zone + λ_cycle·L_cycle + λ_score·L_score.

    A term given as None was not computed in this step and is left out; at least one must be given.
    """
    pairs = ((weights.full, full), (weights.zone, zone), (weights.cycle, cycle), (weights.score, score))
    terms = [scale * term for scale, term in pairs if term is not None]
    if not terms:
        raise ValueError("no loss term was given: compute at least one of L_full, L_zone, L_cycle, L_score")
    return torch.stack(terms).sum()


def adversarial_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """The generator's hinge term, −E D(ẑ_0): beyond the paper. ``logits`` [B, 1, h', w'], ``mask`` [B, 1, h,
    w]."""
    return -_masked_mean(logits, mask)


def discriminator_loss(
    real: Tensor, estimated: Tensor, mismatched: Tensor, mask: Tensor, mismatched_share: float = 0.3
) -> Tensor:
    """Hinge loss of a discriminator conditioned on the score: beyond the paper.

    Logits [B, 1, h', w'] of real latents, of estimates, and of real latents under a wrong score, which are
    false too: that is what makes the score count. E max(0, 1−D_real) + (1−a)·E max(0, 1+D_estimated) + a·E
    max(0, 1+D_mismatched) with a = ``mismatched_share``; means are weighted by the mask.
    """
    return (
        _masked_mean(torch.relu(1.0 - real), mask)
        + (1.0 - mismatched_share) * _masked_mean(torch.relu(1.0 + estimated), mask)
        + mismatched_share * _masked_mean(torch.relu(1.0 + mismatched), mask)
    )


def _masked_mean(values: Tensor, mask: Tensor, background: float = 0.02) -> Tensor:
    """Mean over the whole batch weighted by the mask (averaged down to the values' size) + ``background``."""
    weight = (
        torch.nn.functional.adaptive_avg_pool2d(mask.float(), (values.shape[-2], values.shape[-1]))
        + background
    )
    return (values.float() * weight).sum() / weight.sum()
