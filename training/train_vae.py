"""``python -m training vae``: train the small autoencoder on crops of faces at all scales a zone crop has."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from agesdk.imaging import read_image
from training.autoencoder import SmallVAE
from training.precision import channels_last, resolve
from training.splits import split_of
from training.zones import read_index

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VAEConfig:
    """One run. ``batch_size`` is per process; crops are ``crop_size`` pixels cut from 128-pixel patches."""

    steps: int = 9000
    batch_size: int = 12
    crop_size: int = 64
    full_size_every: int = 8
    learning_rate: float = 1.2e-3
    kl_weight: float = 5e-4
    gradient_weight: float = 1.0
    patches_per_face: int = 24
    seed: int = 0
    checkpoint_every: int = 500


def make_patches(faces: Path, out: Path, per_face: int, seed: int) -> np.ndarray:
    """Random 128² patches of the training faces, uint8 [N, 128, 128, 3] RGB, memory-mapped from ``out``.

    A zone crop spans 0.66 to 1.35 face scales, a quarter of an aligned picture's width; patches cover that
    range.
    """
    if not out.exists():
        rng = np.random.default_rng(seed)
        files = [
            portrait.file for portrait in read_index(faces, ages=False) if split_of(portrait.file) == "train"
        ]
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_suffix(".partial")
        patches = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(files) * per_face, 128, 128, 3))
        for i, name in enumerate(files):
            image = read_image(faces / name)
            height, width = image.shape[:2]
            for j in range(per_face):
                side = round(min(width, height) * rng.uniform(0.15, 0.36))
                x = round(rng.uniform(0.12, 0.88) * width - side / 2)
                y = round(rng.uniform(0.10, 0.95) * height - side / 2)
                x, y = int(np.clip(x, 0, width - side)), int(np.clip(y, 0, height - side))
                method = cv2.INTER_AREA if side >= 128 else cv2.INTER_CUBIC
                patches[i * per_face + j] = cv2.resize(
                    image[y : y + side, x : x + side], (128, 128), interpolation=method
                )
        patches.flush()
        temporary.rename(out)
    return np.load(out, mmap_mode="r")


def reconstruction_loss(output: Tensor, target: Tensor, gradient_weight: float) -> Tensor:
    """L1 plus L1 of image gradients at three scales: wrinkles are gradients, and L1 alone blurs them away."""
    loss = F.l1_loss(output, target)
    for _ in range(3):
        for dim in (2, 3):
            loss = loss + gradient_weight / 3 * F.l1_loss(output.diff(dim=dim), target.diff(dim=dim))
        output, target = F.avg_pool2d(output, 2), F.avg_pool2d(target, 2)
    return loss


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(q || N(0, 1)) in nats, averaged over latent elements."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()


@torch.no_grad()
def normalise_latents(vae: SmallVAE, patches: np.ndarray, count: int = 1024) -> None:
    """Sets the per-channel mean and deviation so that scaled latents of ``count`` patches have zero mean,
    unit variance.
    """
    picks = np.linspace(0, len(patches) - 1, count).astype(int)
    means = []
    for i in range(0, count, 64):
        batch = torch.from_numpy(patches[picks[i : i + 64]]).permute(0, 3, 1, 2).float() / 127.5 - 1
        means.append(vae.encode_raw(batch)[0])
    latents = torch.cat(means)
    vae.latents_mean.copy_(latents.mean((0, 2, 3), keepdim=True))
    vae.latents_std.copy_(latents.std((0, 2, 3), keepdim=True))


def run(faces: Path, out: Path, config: VAEConfig, resume: bool = True) -> SmallVAE:
    """Trains (or resumes) the autoencoder; the result is ``out/vae``. Patches take 1.5 GB of disk."""
    from training.checkpoint import save_component

    cpu = not torch.cuda.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision=resolve("auto", cpu))
    if accelerator.is_main_process:
        make_patches(faces, out / "patches.npy", config.patches_per_face, config.seed)
    accelerator.wait_for_everyone()
    patches = np.load(out / "patches.npy", mmap_mode="r")
    torch.manual_seed(config.seed)
    vae = SmallVAE()
    channels_last(vae)
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
    )
    start, state_path = 0, out / "vae-state.pt"
    if resume and state_path.exists():
        state = torch.load(state_path, weights_only=True)
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]

    class Training(torch.nn.Module):
        """One module with one forward, as DistributedDataParallel wants it."""

        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            mean, logvar = (moment.float() for moment in self.vae.encode_raw(image))
            latents = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
            output = self.vae.decode_raw(latents).float()
            loss = reconstruction_loss(output, image, config.gradient_weight)
            return loss + config.kl_weight * kl_divergence(mean, logvar), F.mse_loss(
                output.detach().clamp(-1, 1), image
            )

    model, optimizer = accelerator.prepare(Training(), optimizer)
    clock, mse_mean = time.perf_counter(), 0.0
    for step in range(start, config.steps):
        # One generator per step: a resumed run draws exactly what an uninterrupted one would.
        rng = np.random.default_rng((config.seed, step, accelerator.process_index))
        torch.manual_seed(int(rng.integers(2**31)))
        full = step % config.full_size_every == 0
        size, count = (128, max(1, config.batch_size // 4)) if full else (config.crop_size, config.batch_size)
        batch = np.empty((count, size, size, 3), np.uint8)
        for i in range(count):
            patch = patches[rng.integers(len(patches))]
            y, x = rng.integers(0, 128 - size + 1, 2)
            batch[i] = patch[y : y + size, x : x + size, :]
            if rng.random() < 0.5:
                batch[i] = batch[i, :, ::-1]
        image = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1
        gain = torch.from_numpy(rng.uniform(0.85, 1.15, (count, 1, 1, 1)).astype(np.float32))
        image = ((image + 1) * gain - 1).clamp(-1, 1)
        progress = step / config.steps
        rate = (
            config.learning_rate
            * min(1.0, (step + 1) / 200)
            * (0.04 + 0.96 * 0.5 * (1 + math.cos(math.pi * progress)))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, mse = model(image)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mse_mean += (float(mse) - mse_mean) / min(100, step - start + 1)
        if accelerator.is_main_process and (step + 1) % 50 == 0:
            psnr = 10 * math.log10(4 / mse_mean)
            pace = (time.perf_counter() - clock) / (step + 1 - start)
            logger.info("step %d loss %.4f psnr %.2f dB, %.3f s a step", step + 1, float(loss), psnr, pace)
        if accelerator.is_main_process and (
            (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps
        ):
            partial = state_path.with_suffix(".partial")
            state = {"vae": vae.state_dict(), "optimizer": optimizer.optimizer.state_dict(), "step": step + 1}
            torch.save(state, partial)
            partial.replace(state_path)
    if accelerator.is_main_process:
        vae.eval()
        normalise_latents(vae, patches)
        save_component(vae, out / "vae")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return vae
