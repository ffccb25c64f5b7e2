"""The training objective as one module: the UNet, its condition and ScoreNet, all losses in one forward pass.

One forward per micro-batch is what DistributedDataParallel and autocast need; the losses are in
`training.losses`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from training import losses
from training.config import ObjectiveConfig, StageConfig

Batch = Mapping[str, Any]
"""A batch of `training.data.Samples` with ``latents`` and, in conditioned mode, ``masked_latents``."""


class Objective(nn.Module):
    """LDLA's total loss (equation 6) of a batch.

    Parameters
    ----------
    unet: called as ``unet(sample, timestep, encoder_hidden_states)``; gives a tensor or a diffusers output.
    condition: see `training.conditions`.
    score_net: ``score_net(latents, zone) -> [B]`` in 0..1.
    alphas_cumprod: float [T], ᾱ of the noise schedule.
    prediction_type: ``epsilon`` or ``v_prediction``.
    conditioned: the UNet also sees the latent of the blurred source and the mask, as channels.
    zone_share: whether samples carry ``drop`` (the zone prompt for some), or both losses are taken on every
    sample.
    discriminator: of stages with an adversarial weight; it gets no gradient here (see
    `DiscriminatorObjective`).
    """

    def __init__(
        self,
        unet: nn.Module,
        condition: nn.Module,
        score_net: nn.Module,
        alphas_cumprod: Tensor,
        prediction_type: str,
        conditioned: bool,
        config: ObjectiveConfig,
        stages: Sequence[StageConfig],
        zone_share: float | None = None,
        discriminator: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.unet, self.condition, self.score_net = unet, condition, score_net
        self.prediction_type, self.conditioned, self.zone_share = prediction_type, conditioned, zone_share
        self.config, self.stages = config, tuple(stages)
        self.register_buffer("alphas_cumprod", alphas_cumprod.float(), persistent=False)
        self.alphas_cumprod: Tensor
        score_net.requires_grad_(config.score_net != "frozen")
        # In a tuple the discriminator is no submodule: neither this module's state nor its average holds it.
        self._discriminator = (discriminator,)

    def train(self, mode: bool = True) -> Objective:
        super().train(mode)
        if self.config.score_net == "frozen":
            self.score_net.eval()
        return self

    def forward(self, batch: Batch, stage: int, cycle: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        """Loss terms of a batch, and the detached estimates at random targets where they were made.

        ``stage`` is the index of the stage whose weights hold; with ``cycle`` L_cycle is taken if its weight
        is not 0. Terms are unweighted scalars ``full``, ``zone`` and, as taken, ``cycle``, ``score``,
        ``adversarial``, ``score_net`` (ScoreNet's error on real latents, which touches ScoreNet only), and
        their weighted ``total``.
        """
        now = self.stages[stage]
        terms: dict[str, Tensor] = {}
        terms["full"], terms["zone"] = self._reconstruction(batch)
        estimate = None
        if now.weights.score > 0.0 or now.adversarial > 0.0:
            estimate = self._at_target(batch)
            part = first(batch, len(estimate))
            terms["score"] = losses.score_loss(self._score(estimate, part["zone"]), part["target"])
        if cycle and now.weights.cycle > 0.0:
            terms["cycle"] = self._cycle(batch)
        terms["total"] = losses.total_loss(
            terms["full"], terms["zone"], terms.get("cycle"), terms.get("score"), now.weights
        )
        if now.adversarial > 0.0 and estimate is not None:
            terms["adversarial"] = self._adversarial(first(batch, len(estimate)), estimate)
            terms["total"] = terms["total"] + now.adversarial * terms["adversarial"]
        if self.config.score_net != "frozen":
            predicted = self.score_net(batch["latents"], batch["zone"])
            terms["score_net"] = losses.score_loss(predicted, batch["score"])
            terms["total"] = terms["total"] + terms["score_net"]
        return terms, None if estimate is None else estimate.detach()

    def predict(
        self,
        noisy: Tensor,
        timestep: Tensor,
        hidden: Tensor,
        masked_latents: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """The UNet's output, [B, C, h, w], for noisy latents under condition states ``hidden``."""
        sample = noisy
        if self.conditioned:
            if masked_latents is None or mask is None:
                raise ValueError("a conditioned UNet needs masked_latents and mask")
            sample = torch.cat([noisy, masked_latents, mask.to(noisy.dtype)], dim=1)
        output = self.unet(sample, timestep, hidden)
        prediction: Tensor = output if isinstance(output, Tensor) else output.sample
        return prediction

    def _reconstruction(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """L_full and L_zone."""
        latents, noise, timestep = batch["latents"], batch["noise"], batch["timestep"]
        noisy = losses.add_noise(latents, noise, self.alphas_cumprod, timestep)
        target = losses.prediction_target(latents, noise, self.alphas_cumprod, timestep, self.prediction_type)
        weight, zone, score, ancestry = (
            self._weight(batch),
            batch["zone"],
            batch["score"],
            batch.get("ancestry"),
        )
        extra = (batch.get("masked_latents"), batch["mask"])
        dropped_score = torch.full_like(score, -1.0)
        if self.zone_share is None:
            hidden = torch.cat(
                [self.condition(zone, score, ancestry), self.condition(zone, dropped_score, None)]
            )
            twice = [None if item is None else torch.cat([item, item]) for item in extra]
            output = self.predict(noisy.repeat(2, 1, 1, 1), timestep.repeat(2), hidden, *twice)
            under_full, under_zone = output.chunk(2)
            return losses.full_loss(under_full, target, weight), losses.zone_loss(under_zone, target, weight)
        drop = batch["drop"]
        hidden = self.condition(zone, torch.where(drop, dropped_score, score), ancestry)
        output = self.predict(noisy, timestep, hidden, *extra)
        return (
            losses.full_loss(output, target, weight, (~drop).float()),
            losses.zone_loss(output, target, weight, drop.float()),
        )

    def _at_target(self, batch: Batch) -> Tensor:
        """One-step estimates (equation 4) under the condition with a random target score."""
        part = first(batch, max(1, int(len(batch["latents"]) * self.config.target_share)))
        estimate = self._step_to(part, part["latents"], part["target"], "target")
        if self.config.paste_targets:
            estimate = part["mask"] * estimate + (1.0 - part["mask"]) * part["latents"]
        return estimate

    def _cycle(self, batch: Batch) -> Tensor:
        """L_cycle: to a random target by one step, and back by another."""
        part = first(batch, self.config.cycle_batch)
        at_target = self._step_to(part, part["latents"], part["cycle_target"], "cycle")
        back = self._step_to(part, at_target, part["score"], "return")
        return losses.cycle_loss(part["latents"], back, self._weight(part))

    def _step_to(self, part: Batch, latents: Tensor, score: Tensor, draws: str) -> Tensor:
        timestep, noise = part[f"{draws}_timestep"], part[f"{draws}_noise"]
        noisy = losses.add_noise(latents, noise, self.alphas_cumprod, timestep)
        hidden = self.condition(part["zone"], score, part.get("ancestry"))
        output = self.predict(noisy, timestep, hidden, part.get("masked_latents"), part["mask"])
        return losses.one_step_estimate(noisy, output, self.alphas_cumprod, timestep, self.prediction_type)

    def _score(self, latents: Tensor, zone: Tensor) -> Tensor:
        """ScoreNet on estimates; unless trained jointly it is a fixed judge: no dropout, no gradient for
        itself."""
        if self.config.score_net == "joint":
            joint: Tensor = self.score_net(latents, zone)
            return joint
        was_training = self.score_net.training
        self.score_net.eval()
        scores: Tensor = functional_call(self.score_net, _detached(self.score_net), (latents, zone))
        self.score_net.train(was_training)
        return scores

    def _adversarial(self, part: Batch, estimate: Tensor) -> Tensor:
        discriminator = self._discriminator[0]
        if discriminator is None:
            raise ValueError("a stage with an adversarial weight needs a discriminator")
        seen = estimate + self.config.discriminator_noise * torch.randn_like(estimate)
        context = (part["masked_latents"], part["mask"], part["zone"], part["target"])
        logits = functional_call(discriminator, _detached(discriminator), (seen, *context))
        return losses.adversarial_loss(logits, part["mask"])

    def _weight(self, batch: Batch) -> Tensor | None:
        background = self.config.mask_background
        return None if background is None else batch["mask"] + background


class DiscriminatorObjective(nn.Module):
    """The discriminator's loss on the estimates that `Objective` made."""

    def __init__(self, discriminator: nn.Module, noise: float) -> None:
        super().__init__()
        self.discriminator, self.noise = discriminator, noise

    def forward(self, batch: Batch, estimate: Tensor) -> Tensor:
        part = first(batch, len(estimate))
        latents, mask, score = part["latents"], part["mask"], part["score"]
        wrong = (score + 0.3 + 0.4 * torch.rand_like(score)) % 1.0
        seen = torch.cat([latents, estimate, latents])
        logits = self.discriminator(
            seen + self.noise * torch.randn_like(seen),
            part["masked_latents"].repeat(3, 1, 1, 1),
            mask.repeat(3, 1, 1, 1),
            part["zone"].repeat(3),
            torch.cat([score, part["target"], wrong]),
        )
        real, estimated, mismatched = logits.chunk(3)
        return losses.discriminator_loss(real, estimated, mismatched, mask)


def first(batch: Batch, count: int | None) -> dict[str, Any]:
    """The first ``count`` samples of a batch (None: all)."""
    return {name: value[:count] for name, value in batch.items()}


def _detached(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}
