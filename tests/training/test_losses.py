"""The losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from training import losses

# ᾱ = 0.64: √ᾱ = 0.8, √(1−ᾱ) = 0.6. ᾱ = 0.36: the other way round.
ALPHAS = torch.tensor([0.64, 0.36])
FIRST, SECOND = torch.tensor([0]), torch.tensor([1])


def constant(value: float, channels: int = 1) -> torch.Tensor:
    return torch.full((1, channels, 2, 2), value)


def test_noising_mixes_signal_and_noise_by_the_schedule() -> None:
    both = losses.add_noise(
        torch.full((2, 1, 1, 1), 2.0), torch.full((2, 1, 1, 1), -1.0), ALPHAS, torch.tensor([0, 1])
    )
    assert both.flatten().tolist() == pytest.approx([0.8 * 2 - 0.6, 0.6 * 2 - 0.8])


def test_velocity_is_the_schedules_rotation_of_noise_and_signal() -> None:
    v = losses.velocity(constant(2.0), constant(-1.0), ALPHAS, FIRST)
    assert v.flatten().tolist() == pytest.approx([0.8 * -1 - 0.6 * 2] * 4)


@pytest.mark.parametrize(
    ("prediction_type", "output", "expected"),
    [
        ("epsilon", 0.5, (1.0 - 0.6 * 0.5) / 0.8),
        ("v_prediction", 0.5, 0.8 * 1.0 - 0.6 * 0.5),
    ],
)
def test_one_step_estimate_of_a_given_output(prediction_type: str, output: float, expected: float) -> None:
    estimate = losses.one_step_estimate(constant(1.0), constant(output), ALPHAS, FIRST, prediction_type)
    assert estimate.flatten().tolist() == pytest.approx([expected] * 4)


@pytest.mark.parametrize("prediction_type", losses.PREDICTION_TYPES)
def test_one_step_estimate_of_a_perfect_model_is_the_source(prediction_type: str) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 2, 3, 4, 4, generator=generator)
    timesteps = torch.tensor([0, 1])
    noisy = losses.add_noise(latents, noise, ALPHAS, timesteps)
    output = losses.prediction_target(latents, noise, ALPHAS, timesteps, prediction_type)
    estimate = losses.one_step_estimate(noisy, output, ALPHAS, timesteps, prediction_type)
    torch.testing.assert_close(estimate, latents)


def test_unknown_prediction_type_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="epsilon, v_prediction"):
        losses.prediction_target(constant(0.0), constant(0.0), ALPHAS, FIRST, "sample")
    with pytest.raises(ValueError, match="epsilon, v_prediction"):
        losses.one_step_estimate(constant(0.0), constant(0.0), ALPHAS, FIRST, "sample")


@pytest.mark.parametrize("loss", [losses.full_loss, losses.zone_loss])
def test_equations_1_and_2_are_mean_squared_errors(loss: object) -> None:
    output = torch.tensor([[[[1.0, 2.0]]], [[[0.0, 4.0]]]])
    assert callable(loss)
    # (1 + 4) / 2 = 2.5 and (0 + 16) / 2 = 8: mean 5.25
    assert loss(output, torch.zeros_like(output)).item() == pytest.approx(5.25)


def test_mask_weights_pixels_within_each_sample_and_samples_equally() -> None:
    output = torch.tensor([[[[1.0, 3.0]], [[2.0, 5.0]]], [[[2.0, 7.0]], [[4.0, 7.0]]]])
    mask = torch.tensor([[[[1.0, 0.5]]], [[[0.25, 0.0]]]])
    # sample 1: (1·1 + .5·9 + 1·4 + .5·25) / (2 · 1.5) = 22/3; sample 2: (.25·4 + .25·16) / (2 · .25) = 10
    expected = (22 / 3 + 10) / 2
    assert losses.full_loss(output, torch.zeros_like(output), mask).item() == pytest.approx(expected)


def test_empty_mask_counts_as_zero_instead_of_dividing_by_zero() -> None:
    output = torch.ones(2, 1, 1, 1)
    mask = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)
    assert losses.full_loss(output, torch.zeros_like(output), mask).item() == pytest.approx(0.5)


def test_sample_weights_split_a_batch_between_full_and_zone_prompts() -> None:
    output = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1, 1)
    dropped = torch.tensor([0.0, 1.0, 0.0, 0.0])
    full = losses.full_loss(output, torch.zeros_like(output), sample_weight=1 - dropped)
    zone = losses.zone_loss(output, torch.zeros_like(output), sample_weight=dropped)
    assert full.item() == pytest.approx((1 + 9 + 16) / 4)
    assert zone.item() == pytest.approx(4 / 4)


def test_equation_3_compares_the_source_with_the_cycled_estimate() -> None:
    # There: z_t = .8·1 + .6·.5 = 1.1, ε_θ = .25 → ẑ = (1.1 − .15) / .8 = 1.1875.
    # Back: z_t = .6·1.1875 + .8·0 = .7125, ε_θ = .1 → ẑ = (.7125 − .08) / .6 = 1.0541667.
    source = constant(1.0)
    there = losses.add_noise(source, constant(0.5), ALPHAS, FIRST)
    target = losses.one_step_estimate(there, constant(0.25), ALPHAS, FIRST, "epsilon")
    back = losses.add_noise(target, constant(0.0), ALPHAS, SECOND)
    cycled = losses.one_step_estimate(back, constant(0.1), ALPHAS, SECOND, "epsilon")
    assert target.flatten()[0].item() == pytest.approx(1.1875)
    expected = (0.6325 / 0.6 - 1.0) ** 2
    assert losses.cycle_loss(source, cycled).item() == pytest.approx(expected, rel=1e-4)


def test_equation_5_is_the_squared_error_of_the_score() -> None:
    predicted, target = torch.tensor([0.5, 0.9]), torch.tensor([0.2, 1.0])
    assert losses.score_loss(predicted, target).item() == pytest.approx((0.09 + 0.01) / 2)
    weighted = losses.score_loss(predicted, target, torch.tensor([2.0, 0.0]))
    assert weighted.item() == pytest.approx(0.09)


def test_equation_6_weights_the_terms_and_leaves_out_those_not_taken() -> None:
    terms = [torch.tensor(value) for value in (1.0, 2.0, 3.0, 4.0)]
    weights = losses.LossWeights(full=1.0, zone=0.5, cycle=0.1, score=10.0)
    assert losses.total_loss(*terms, weights).item() == pytest.approx(1 + 1 + 0.3 + 40)
    assert losses.total_loss(terms[0], terms[1], None, None, weights).item() == pytest.approx(2)
    with pytest.raises(ValueError, match="no loss term"):
        losses.total_loss(None, None, None, None, weights)


def test_gradient_of_the_score_term_reaches_the_model_output_through_equation_4() -> None:
    # S(z) = mean z; d/dε_θ of (S(ẑ) − s)² with ẑ = (z_t − .6 ε_θ) / .8 is 2 (S − s) · (−.6/.8) / n.
    output = torch.full((1, 1, 1, 2), 0.5, requires_grad=True)
    estimate = losses.one_step_estimate(torch.ones(1, 1, 1, 2), output, ALPHAS, FIRST, "epsilon")
    losses.score_loss(estimate.mean(dim=(1, 2, 3)), torch.tensor([0.2])).backward()
    assert output.grad is not None
    expected = 2 * ((1 - 0.3) / 0.8 - 0.2) * (-0.75) / 2
    assert output.grad.flatten().tolist() == pytest.approx([expected] * 2)


def test_losses_of_half_precision_outputs_are_float32() -> None:
    output = torch.full((1, 1, 2, 2), 1.0, dtype=torch.bfloat16)
    assert losses.full_loss(output, torch.zeros(1, 1, 2, 2)).dtype == torch.float32
    assert losses.one_step_estimate(output, output, ALPHAS, FIRST, "epsilon").dtype == torch.float32


def test_adversarial_terms_are_masked_hinges() -> None:
    logits = torch.tensor([[[[2.0, -1.0]]]])
    mask = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])  # averaged to [1, 0], plus .02 background
    weighted = (2 * 1.02 - 1 * 0.02) / 1.04
    assert losses.adversarial_loss(logits, mask).item() == pytest.approx(-weighted)
    # hinges: real max(0, 1−x) = [0, 2]; estimated and mismatched max(0, 1+x) = [3, 0]
    real, false = 2 * 0.02 / 1.04, 3 * 1.02 / 1.04
    loss = losses.discriminator_loss(logits, logits, logits, mask, mismatched_share=0.3)
    assert loss.item() == pytest.approx(real + false)
    assert math.isfinite(loss.item())
