"""The objective: which network each term trains, and that terms are the losses of their definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training import losses
from training.config import ObjectiveConfig, StageConfig
from training.losses import LossWeights
from training.objective import DiscriminatorObjective, Objective

ALPHAS = torch.linspace(0.99, 0.1, 10)


class Scaling(nn.Module):
    """f(x, t, c) = a·x + b·c, so that outputs are known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.2))

    def forward(self, sample: Tensor, timestep: Tensor, hidden: Tensor) -> Tensor:
        return self.a * sample[:, :2] + self.b * hidden.reshape(-1, 1, 1, 1)


class ScoreAsCondition(nn.Module):
    def forward(self, zone: Tensor, score: Tensor, ancestry: Any = None) -> Tensor:
        return score[:, None, None]


class MeanScore(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.1))

    def forward(self, latents: Tensor, zone: Tensor) -> Tensor:
        return latents.mean(dim=(1, 2, 3)) + self.bias


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 1)

    def forward(self, latents: Tensor, masked: Tensor, mask: Tensor, zone: Tensor, score: Tensor) -> Tensor:
        return torch.as_tensor(self.conv(latents))


def make(
    weights: LossWeights | None = None,
    zone_share: float | None = None,
    adversarial: float = 0.0,
    conditioned: bool = False,
    **config: Any,
) -> Objective:
    stage = StageConfig(1, 4, 1e-3, weights=weights or LossWeights(), adversarial=adversarial)
    return Objective(
        Scaling(),
        ScoreAsCondition(),
        MeanScore(),
        ALPHAS,
        "epsilon",
        conditioned,
        ObjectiveConfig(**config),
        [stage],
        zone_share,
        Linear() if adversarial else None,
    ).train()


def batch(count: int = 4) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    names = ("latents", "noise", "target_noise", "cycle_noise", "return_noise", "masked_latents")
    result: dict[str, Any] = {name: torch.randn(count, 2, 4, 4, generator=generator) for name in names}
    for name in ("timestep", "target_timestep", "cycle_timestep", "return_timestep"):
        result[name] = torch.randint(0, 10, (count,), generator=generator)
    for name in ("score", "target", "cycle_target"):
        result[name] = torch.rand(count, generator=generator)
    result["mask"] = torch.rand(count, 1, 4, 4, generator=generator)
    result["zone"] = torch.arange(count)
    result["drop"] = torch.tensor([True, False, False, True][:count])
    return result


def output(noisy: Tensor, score: Tensor | float) -> Tensor:
    score = torch.as_tensor(score)
    return 0.3 * noisy + 0.2 * (score if score.ndim == 0 else score.reshape(-1, 1, 1, 1))


def step_to(data: dict[str, Any], latents: Tensor, score: Tensor, name: str) -> Tensor:
    noisy = losses.add_noise(latents, data[f"{name}_noise"], ALPHAS, data[f"{name}_timestep"])
    return losses.one_step_estimate(noisy, output(noisy, score), ALPHAS, data[f"{name}_timestep"], "epsilon")


def test_terms_are_the_equations_on_every_sample() -> None:
    data = batch()
    terms, estimate = make(LossWeights(1.0, 0.5, 2.0, 3.0), score_net="frozen")(data, 0, True)
    noisy = losses.add_noise(data["latents"], data["noise"], ALPHAS, data["timestep"])
    full = (output(noisy, data["score"]) - data["noise"]).square().mean()
    zone = (output(noisy, -1.0) - data["noise"]).square().mean()
    at_target = step_to(data, data["latents"], data["target"], "target")
    score = (at_target.mean(dim=(1, 2, 3)) + 0.1 - data["target"]).square().mean()
    there = step_to(data, data["latents"], data["cycle_target"], "cycle")
    cycle = (step_to(data, there, data["score"], "return") - data["latents"]).square().mean()
    for name, expected in (("full", full), ("zone", zone), ("score", score), ("cycle", cycle)):
        torch.testing.assert_close(terms[name].detach(), expected)
    torch.testing.assert_close(terms["total"].detach(), full + 0.5 * zone + 2 * cycle + 3 * score)
    assert estimate is not None and not estimate.requires_grad


def test_shared_batch_gives_each_sample_to_one_of_both_losses() -> None:
    data = batch()
    terms, _ = make(LossWeights(cycle=0, score=0), zone_share=0.5, mask_background=0.1)(data, 0, True)
    noisy = losses.add_noise(data["latents"], data["noise"], ALPHAS, data["timestep"])
    weight = data["mask"] + 0.1
    score = torch.where(data["drop"], -1.0, data["score"])
    squared = (output(noisy, score) - data["noise"]).square()
    per_sample = (weight * squared).sum(dim=(1, 2, 3)) / (2 * weight.sum(dim=(1, 2, 3)))
    torch.testing.assert_close(terms["full"].detach(), (per_sample * ~data["drop"]).mean())
    torch.testing.assert_close(terms["zone"].detach(), (per_sample * data["drop"]).mean())
    assert "cycle" not in terms and "score" not in terms


def test_cycle_is_left_out_of_steps_that_do_not_take_it() -> None:
    terms, _ = make()(batch(), 0, False)
    assert "cycle" not in terms and "score" in terms


def test_shares_of_the_batch_are_used_for_score_and_cycle() -> None:
    data = batch()
    objective = make(score_net="frozen", target_share=0.5, cycle_batch=1, paste_targets=True)
    terms, estimate = objective(data, 0, True)
    part = {name: value[:2] for name, value in data.items()}
    bare = step_to(part, part["latents"], part["target"], "target")
    pasted = part["mask"] * bare + (1 - part["mask"]) * part["latents"]
    assert estimate is not None
    torch.testing.assert_close(estimate, pasted)
    single = {name: value[:1] for name, value in data.items()}
    there = step_to(single, single["latents"], single["cycle_target"], "cycle")
    expected = (step_to(single, there, single["score"], "return") - single["latents"]).square().mean()
    torch.testing.assert_close(terms["cycle"].detach(), expected)


def gradient_of(objective: Objective, term: str) -> tuple[float, float]:
    """Gradient of a term on the UNet's first and ScoreNet's only parameter."""
    terms, _ = objective(batch(), 0, True)
    terms[term].backward()
    unet, score_net = objective.unet, objective.score_net
    assert isinstance(unet, Scaling) and isinstance(score_net, MeanScore)
    return tuple(0.0 if p.grad is None else p.grad.item() for p in (unet.a, score_net.bias))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("mode", "score_trains_score_net", "real_trains_score_net"),
    [("joint", True, True), ("real", False, True), ("frozen", False, None)],
)
def test_score_net_learns_from_what_its_mode_says(
    mode: str, score_trains_score_net: bool, real_trains_score_net: bool | None
) -> None:
    of_unet, of_score_net = gradient_of(make(score_net=mode), "score")
    assert of_unet != 0.0
    assert (of_score_net != 0.0) is score_trains_score_net
    if real_trains_score_net is None:
        assert "score_net" not in make(score_net=mode)(batch(), 0, True)[0]
    else:
        of_unet, of_score_net = gradient_of(make(score_net=mode), "score_net")
        assert of_unet == 0.0 and of_score_net != 0.0


def test_frozen_score_net_stays_in_evaluation_mode() -> None:
    assert not make(score_net="frozen").score_net.training
    assert make(score_net="real").score_net.training


def test_conditioned_unet_sees_source_and_mask_as_channels() -> None:
    seen: list[Tensor] = []
    objective = make(LossWeights(cycle=0, score=0), zone_share=0.5, conditioned=True)
    objective.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    data = batch()
    objective(data, 0, True)
    assert seen[0].shape == (4, 5, 4, 4)
    torch.testing.assert_close(seen[0][:, 2:4], data["masked_latents"])
    torch.testing.assert_close(seen[0][:, 4:], data["mask"])
    with pytest.raises(ValueError, match="masked_latents"):
        objective.predict(data["latents"], data["timestep"], data["score"], None, None)


def test_adversarial_term_trains_the_unet_and_the_discriminator_by_turns() -> None:
    objective = make(adversarial=0.5, conditioned=True, discriminator_noise=0.0)
    discriminator = objective._discriminator[0]
    assert discriminator is not None
    assert not any("conv" in name for name in objective.state_dict())
    data = batch()
    terms, estimate = objective(data, 0, True)
    terms["adversarial"].backward()
    assert objective.unet.a.grad is not None
    assert all(p.grad is None for p in discriminator.parameters())
    objective.zero_grad()
    DiscriminatorObjective(discriminator, 0.0)(data, estimate).backward()
    assert all(p.grad is not None for p in discriminator.parameters())
    assert objective.unet.a.grad is None
