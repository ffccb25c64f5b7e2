"""The training loop of the reference zone-aging model, on latents encoded beforehand."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from agesdk.diffusion.schedule import alphas_cumprod
from agesdk.faces.zones import ZONE_KINDS
from agesdk.manifest import SchedulerSettings
from training import losses
from training.discriminator import LatentDiscriminator
from training.ema import EMA
from training.latents import CropTable
from training.scorenet import ScoreNet
from training.unet import ConditionEncoder, SmallUNet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A stretch of steps with one set of weights; rates fall linearly from ``rate`` to ``rate_end``."""

    steps: int
    rate: float
    rate_end: float
    score: float = 0.0
    cycle: float = 0.0
    adversarial: float = 0.0
    batch_size: int = 24


@dataclass(frozen=True)
class SmallConfig:
    stages: tuple[Stage, ...]
    seed: int = 0
    drop_share: float = 0.2
    ema_decay: float = 0.999
    cycle_every: int = 3
    cycle_batch: int = 8
    discriminator_rate: float = 2e-4
    background: float = 0.1
    checkpoint_every: int = 250


class Latents:
    """Encoded variants of the training crops and how often each crop is drawn."""

    def __init__(self, zones: Path, latents: Path, split: str) -> None:
        self.table = table = CropTable.read(zones)
        self.latents = np.load(latents / "latents.npy", mmap_mode="r")
        self.blurred = np.load(latents / "blurred.npy", mmap_mode="r")
        self.masks = np.load(latents / "masks.npy", mmap_mode="r")
        self.rows = np.flatnonzero((table.split == split) & np.isfinite(table.score))
        kinds = table.kind[self.rows]
        per_kind = np.bincount(kinds, minlength=len(ZONE_KINDS)).astype(float)
        emphasis = np.array([1.25 if k in ("upper_lip", "mouth_corner", "crows_feet") else 1.0 for k in ZONE_KINDS])
        weight = (emphasis / per_kind)[kinds]
        dark = table.lightness[self.rows] <= np.quantile(table.lightness[self.rows], 0.25)
        weight = weight * np.where(dark, 1.6, 1.0)
        self.cumulative = np.cumsum(weight / weight.sum())

    def batch(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """latents, blurred [B, C, h, w], mask [B, 1, h, w] in 0..1, zone int64 [B], score [B]."""
        picks = self.rows[np.minimum(np.searchsorted(self.cumulative, rng.random(count)), len(self.rows) - 1)]
        variants = rng.integers(0, self.latents.shape[1], count)
        z = torch.from_numpy(np.stack([self.latents[n, v] for n, v in zip(picks, variants, strict=True)])).float()
        b = torch.from_numpy(np.stack([self.blurred[n, v] for n, v in zip(picks, variants, strict=True)])).float()
        m = np.stack([self.masks[n, v] for n, v in zip(picks, variants, strict=True)])[:, None]
        mask = torch.from_numpy(m).float() / 255
        return z, b, mask, torch.from_numpy(self.table.kind[picks]), torch.from_numpy(self.table.score[picks])


class Generator(nn.Module):
    """UNet and condition encoder in one module with one forward, as DistributedDataParallel wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = SmallUNet()
        self.condition = ConditionEncoder()

    def forward(self, noisy: Tensor, timestep: Tensor, blurred: Tensor, mask: Tensor, zone: Tensor, score: Tensor) -> Tensor:
        return self.unet(torch.cat([noisy, blurred, mask], 1), timestep, self.condition(zone, score))


def train_score_net(data: Latents, out: Path, steps: int = 2500, batch: int = 64, seed: int = 0) -> ScoreNet:
    """ScoreNet on real latents with a little noise, so that it does not live off what a decoder would not show."""
    from training.checkpoint import save_component

    torch.manual_seed(seed)
    net = ScoreNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    running = 0.25
    for step in range(steps):
        rng = np.random.default_rng((seed, 77, step))
        z, _, _, zone, score = data.batch(rng, batch)
        z = z + torch.randn_like(z) * torch.from_numpy(rng.uniform(0, 0.35, (batch, 1, 1, 1)).astype(np.float32))
        predicted = net(z, zone)
        loss = F.mse_loss(predicted, score)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        running += 0.02 * (float((predicted - score).abs().mean().detach()) - running)
        if (step + 1) % 250 == 0:
            logger.info("score net step %d, training MAE %.3f", step + 1, running)
    net.eval()
    save_component(net, out)
    return net


def train(zones: Path, latents: Path, score_net: ScoreNet, out: Path, config: SmallConfig) -> None:
    """Trains or resumes; ``out`` gets ``state.pt`` (everything) and ``ema.pt`` (averaged weights) at intervals."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    out.mkdir(parents=True, exist_ok=True)
    data = Latents(zones, latents, "train")
    settings = SchedulerSettings(prediction_type="v_prediction")
    alphas = torch.from_numpy(alphas_cumprod(settings)).float()
    torch.manual_seed(config.seed)
    generator, discriminator = Generator(), LatentDiscriminator()
    g_optimizer = torch.optim.AdamW(generator.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    d_optimizer = torch.optim.AdamW(discriminator.parameters(), lr=config.discriminator_rate, betas=(0.5, 0.99))
    ema = EMA(generator, config.ema_decay)
    start, state_path = 0, out / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        generator.load_state_dict(state["generator"])
        discriminator.load_state_dict(state["discriminator"])
        g_optimizer.load_state_dict(state["g_optimizer"])
        d_optimizer.load_state_dict(state["d_optimizer"])
        ema.load_state_dict(state["ema"])
        start = state["step"]
    model, g_opt = accelerator.prepare(generator, g_optimizer)
    judge, d_opt = accelerator.prepare(discriminator, d_optimizer)
    frozen = score_net.eval().requires_grad_(False)
    total = sum(stage.steps for stage in config.stages)
    clock, means = time.perf_counter(), {}
    for step in range(start, total):
        stage, within = _stage_at(config.stages, step)
        rng = np.random.default_rng((config.seed, step, accelerator.process_index))
        torch.manual_seed(int(rng.integers(2**31)))
        rate = (stage.rate + (stage.rate_end - stage.rate) * within) * min(1.0, (step + 1) / 150)
        for group in g_opt.param_groups:
            group["lr"] = rate
        terms: dict[str, Tensor] = {}
        z, blurred, mask, zone, score = data.batch(rng, stage.batch_size)
        count = len(z)
        weight = mask + config.background
        noise, timestep = torch.randn_like(z), torch.randint(0, 1000, (count,))
        noisy = losses.add_noise(z, noise, alphas, timestep)
        target = losses.velocity(z, noise, alphas, timestep)
        dropped = torch.rand(count) < config.drop_share
        condition = torch.where(dropped, torch.full_like(score, -1.0), score)
        extra = stage.score > 0 or stage.adversarial > 0
        if extra:  # one forward for the denoising loss and for the one-step estimates at random targets
            k = count // 2
            wanted, t2 = torch.rand(k), torch.randint(60, 850, (k,))
            noise2 = torch.randn_like(z[:k])
            noisy2 = losses.add_noise(z[:k], noise2, alphas, t2)
            output = model(
                torch.cat([noisy, noisy2]), torch.cat([timestep, t2]), torch.cat([blurred, blurred[:k]]),
                torch.cat([mask, mask[:k]]), torch.cat([zone, zone[:k]]), torch.cat([condition, wanted]),
            )  # fmt: skip
            output, output2 = output[:count], output[count:]
            estimate = losses.one_step_estimate(noisy2, output2, alphas, t2, "v_prediction")
            estimate = mask[:k] * estimate + (1 - mask[:k]) * z[:k]
            terms["score"] = stage.score * losses.score_loss(frozen(estimate, zone[:k]), wanted)
            if stage.adversarial > 0:
                for p in discriminator.parameters():
                    p.requires_grad_(False)
                smear = 0.15 * torch.randn_like(estimate)
                logits = discriminator(estimate + smear, blurred[:k], mask[:k], zone[:k], wanted)
                terms["adversarial"] = -stage.adversarial * _masked_mean(logits, mask[:k])
        else:
            output = model(noisy, timestep, blurred, mask, zone, condition)
        keep = (~dropped).float()
        terms["full"] = losses.full_loss(output, target, weight, keep)
        terms["zone"] = losses.zone_loss(output, target, weight, 1 - keep)
        if stage.cycle > 0 and step % config.cycle_every == 0:
            terms["cycle"] = stage.cycle * _cycle(model, alphas, z, blurred, mask, zone, score, weight, config.cycle_batch)
        loss = torch.stack(list(terms.values())).sum()
        g_opt.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        g_opt.step()
        ema.update(generator)
        if extra and stage.adversarial > 0:
            for p in discriminator.parameters():
                p.requires_grad_(True)
            fake = estimate.detach()
            noise_level = 0.15
            both = torch.cat([z[:k], fake, z[:k]])
            # Real latents under a wrong score are false too: that is what makes the score count.
            wrong = (score[:k] + 0.3 + 0.4 * torch.rand(k)) % 1.0
            logits = judge(
                both + noise_level * torch.randn_like(both), blurred[:k].repeat(3, 1, 1, 1), mask[:k].repeat(3, 1, 1, 1),
                zone[:k].repeat(3), torch.cat([score[:k], wanted, wrong]),
            )  # fmt: skip
            real, false, mismatched = logits.chunk(3)
            d_loss = (
                _masked_mean(F.relu(1 - real), mask[:k])
                + 0.7 * _masked_mean(F.relu(1 + false), mask[:k])
                + 0.3 * _masked_mean(F.relu(1 + mismatched), mask[:k])
            )
            d_opt.zero_grad(set_to_none=True)
            accelerator.backward(d_loss)
            d_opt.step()
            terms["discriminator"] = d_loss
        for name, term in terms.items():
            value = float(term.detach())
            means[name] = means.get(name, value) + 0.02 * (value - means.get(name, value))
        if accelerator.is_main_process and (step + 1) % 50 == 0:
            pace = (time.perf_counter() - clock) / (step + 1 - start)
            text = " ".join(f"{name} {value:.4f}" for name, value in means.items())
            logger.info("step %d/%d %s, %.3f s a step", step + 1, total, text, pace)
        if accelerator.is_main_process and ((step + 1) % config.checkpoint_every == 0 or step + 1 == total):
            state = {
                "generator": generator.state_dict(), "discriminator": discriminator.state_dict(),
                "g_optimizer": g_optimizer.state_dict(), "d_optimizer": d_optimizer.state_dict(),
                "ema": ema.state_dict(), "step": step + 1,
            }  # fmt: skip
            partial = state_path.with_suffix(".partial")
            torch.save(state, partial)
            partial.replace(state_path)
            with ema.applied(generator):
                torch.save(generator.state_dict(), out / f"ema-{step + 1}.pt")
    (out / "config.json").write_text(json.dumps(asdict(config), indent=1))
    accelerator.end_training()


def _stage_at(stages: tuple[Stage, ...], step: int) -> tuple[Stage, float]:
    for stage in stages:
        if step < stage.steps:
            return stage, step / stage.steps
        step -= stage.steps
    raise ValueError(f"step {step} lies beyond the last stage")


def _masked_mean(logits: Tensor, mask: Tensor) -> Tensor:
    weight = F.avg_pool2d(mask, mask.shape[-1] // logits.shape[-1]) + 0.02
    return (logits * weight).sum() / weight.sum()


def _cycle(
    model: nn.Module, alphas: Tensor, z: Tensor, blurred: Tensor, mask: Tensor, zone: Tensor, score: Tensor,
    weight: Tensor, count: int,
) -> Tensor:  # fmt: skip
    """Equation 3 on the first ``count`` samples: to a random target by one step, and back by another."""
    z, blurred, mask, zone, score, weight = (v[:count] for v in (z, blurred, mask, zone, score, weight))
    estimate = z
    for condition in (torch.rand(count), score):
        timestep = torch.randint(60, 600, (count,))
        noisy = losses.add_noise(estimate, torch.randn_like(z), alphas, timestep)
        output = model(noisy, timestep, blurred, mask, zone, condition)
        estimate = losses.one_step_estimate(noisy, output, alphas, timestep, "v_prediction")
    return losses.cycle_loss(z, estimate, weight)
