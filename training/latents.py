"""Latents of zone crops, encoded once: the autoencoder is frozen while the denoiser trains.

Every crop is stored in a few *variants* (shifted, turned, scaled, brighter or darker, mirrored where the zone
is central), each as three arrays: the latent of the crop, the latent of the crop with its skin blurred, and
the skin mask at latent resolution.
"""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from agesdk.faces.skin import blur_inside
from agesdk.faces.zones import CROP_SIZE
from training.autoencoder import SmallVAE
from training.crop_table import CropTable
from training.precision import channels_last, resolve

logger = logging.getLogger(__name__)

BLUR_SIGMAS = (5.0, 7.0, 10.0, 14.0)
"""Blur of the conditioning picture, pixels, drawn for every variant but the first. A narrow blur leaves the
shading of deep folds in; a model that always sees it learns to trust it, and carves young skin, which has
none."""
PLAIN_BLUR_SIGMA = 7.0


def vary(
    crop: NDArray[np.uint8], mask: NDArray[np.uint8], rng: np.random.Generator, mirror: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A jittered 128-pixel view of a stored crop: uint8 [128, 128, 3] and its mask float32 [128, 128] in
    0..1.
    """
    angle, scale = np.deg2rad(rng.uniform(-4, 4)), rng.uniform(0.92, 1.08)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirror:
        turn[:, 0] *= -1
    centre = (crop.shape[0] - 1) / 2 + rng.uniform(-9, 9, 2)
    matrix = np.concatenate([turn, (centre - turn @ np.full(2, (CROP_SIZE - 1) / 2))[:, None]], 1)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    size = (CROP_SIZE, CROP_SIZE)
    view = cv2.warpAffine(crop, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    skin = cv2.warpAffine(
        mask, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.97, 1.03, 3)
    view = np.clip(np.rint(view * gain), 0, 255).astype(np.uint8)
    return view, skin.astype(np.float32) / 255


def encode_variants(
    zones: Path, vae: SmallVAE, out: Path, variants: int, seed: int = 0, processes: int = 1
) -> None:
    """Writes ``latents.npy``, ``blurred.npy`` float16 [N, V, C, 16, 16] and ``masks.npy`` uint8 [N, V, 16,
    16].

    Crops without a score stay zero. The work is shared among ``processes``, each with one thread; the result
    does not depend on how many.
    """
    if (out / "DONE").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    count, h = len(CropTable.read(zones)), CROP_SIZE // vae.scale_factor
    shape = (count, variants, vae.config.latent_channels, h, h)
    np.lib.format.open_memmap(out / "latents.npy", "w+", np.float16, shape).flush()
    np.lib.format.open_memmap(out / "blurred.npy", "w+", np.float16, shape).flush()
    np.lib.format.open_memmap(out / "masks.npy", "w+", np.uint8, (count, variants, h, h)).flush()
    torch.save(vae.state_dict(), out / "vae.pt")
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_encode_share, args=(zones, out, vae.config, seed, rank, processes))
        for rank in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode != 0:
            raise RuntimeError(f"an encoding process ended with exit code {worker.exitcode}")
    (out / "DONE").touch()


@torch.no_grad()
def _encode_share(zones: Path, out: Path, config: object, seed: int, rank: int, processes: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    vae = SmallVAE(config)  # type: ignore[arg-type]
    vae.load_state_dict(torch.load(out / "vae.pt", weights_only=True))
    channels_last(vae)
    fast = resolve("auto", cpu=True) == "bf16"
    table = CropTable.read(zones)
    crops, masks = np.load(zones / "crops.npy", mmap_mode="r"), np.load(zones / "masks.npy", mmap_mode="r")
    latents, blurred = (
        np.load(out / "latents.npy", mmap_mode="r+"),
        np.load(out / "blurred.npy", mmap_mode="r+"),
    )
    small_masks = np.load(out / "masks.npy", mmap_mode="r+")
    margin, inner = (crops.shape[1] - CROP_SIZE) // 2, CROP_SIZE
    for n in range(rank, len(table), processes):
        if not np.isfinite(table.score[n]):
            continue
        pictures = []
        for v in range(latents.shape[1]):
            rng = np.random.default_rng((seed, n, v))
            skin: NDArray[np.float32]
            if v == 0:
                window = slice(margin, margin + inner)
                view = np.ascontiguousarray(crops[n][window, window])
                skin = np.divide(masks[n][window, window], 255, dtype=np.float32)
                sigma = PLAIN_BLUR_SIGMA
            else:
                mirror = table.side[n] == "centre" and bool(rng.random() < 0.5)
                view, skin = vary(np.asarray(crops[n]), np.asarray(masks[n]), rng, mirror)
                sigma = float(rng.choice(BLUR_SIGMAS))
            pictures += [view, blur_inside(view, skin, sigma)]
            cells = skin.reshape(latents.shape[3], vae.scale_factor, latents.shape[4], vae.scale_factor)
            small_masks[n, v] = np.rint(cells.mean((1, 3)) * 255)
        batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            mean = vae.encode(batch)[0].float().numpy()
        latents[n], blurred[n] = mean[0::2], mean[1::2]
