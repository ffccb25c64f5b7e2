"""The judge: a score network that sees pixels, used only to measure.

The ScoreNet of training reads latents, and its gradients reach the UNet, which may learn to please it. The
judge is of another kind (a convolutional network on the RGB crop), sees only real crops of the training
split, and is never used in training the UNet; what it says about an aged crop is therefore evidence.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from agesdk.errors import UsageError
from training.crop_table import CropTable, centre, open_pixels

logger = logging.getLogger(__name__)

CROP_SIZE = 128
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class JudgeConfig:
    """Shape of the network.

    Parameters
    ----------
    zones:
        Zone kinds in index order.
    width:
        Channels after the first convolution; the four stages after it have 2, 3, 4 and 6 times as many.
    """

    zones: tuple[str, ...]
    width: int = 16


class Judge(nn.Module):
    """Score of a zone crop from its pixels.

    A convolution and four stages, each of half the resolution; in each stage a scale and shift learned per
    zone tell the filters which zone they look at. Mean and spread over space of the last stage give the
    score, so wrinkles count wherever they are.
    """

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        channels = (w, 2 * w, 3 * w, 4 * w, 6 * w)
        self.stem = nn.Conv2d(3, w, 5, stride=2, padding=2, bias=False)
        self.stages = nn.ModuleList(
            _Stage(before, after, len(config.zones)) for before, after in pairwise(channels)
        )
        self.stem_norm = nn.BatchNorm2d(w)
        self.head = nn.Sequential(nn.Linear(12 * w + 16, 64), nn.SiLU(), nn.Dropout(0.1), nn.Linear(64, 1))
        self.zone = nn.Embedding(len(config.zones), 16)

    def forward(self, image: Tensor, zone: Tensor) -> Tensor:
        """Scores.

        Parameters
        ----------
        image:
            float [B, 3, 128, 128], RGB in 0..1, right-side crops mirrored to the left.
        zone:
            int64 [B], index into ``config.zones``.

        Returns
        -------
        float [B], 0..1
        """
        x = F.relu(self.stem_norm(self.stem((image - 0.5) / 0.25)))
        for stage in self.stages:
            x = stage(x, zone)
        pooled = torch.cat([x.mean((2, 3)), x.std((2, 3)), self.zone(zone)], 1)
        return torch.sigmoid(self.head(pooled).squeeze(1))


class _Stage(nn.Module):
    """Strided convolution, per-zone modulation, and one residual convolution."""

    def __init__(self, before: int, after: int, zones: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        self.down_norm = nn.BatchNorm2d(after, affine=False)
        self.modulation = nn.Embedding(zones, 2 * after)
        nn.init.zeros_(self.modulation.weight)
        self.conv = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(after)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor, zone: Tensor) -> Tensor:
        scale, shift = self.modulation(zone)[:, :, None, None].chunk(2, 1)
        x = F.relu(self.down_norm(self.down(x)) * (1 + scale) + shift)
        return F.relu(x + self.norm(self.conv(x)))


@dataclass(frozen=True)
class ZoneData:
    """Prepared zone crops (``python -m training prepare-zones``), the crops memory-mapped.

    Parameters
    ----------
    crops:
        uint8 [N, S, S, 3] RGB, S ≥ 128; the middle 128 pixels are the crop the runtime would take, the rest
        is margin.
    zone:
        int64 [N], index into `kinds`.
    score:
        float32 [N], 0..1; NaN where the crop shows too little skin.
    split:
        str [N]: ``train``, ``val`` or ``test``.
    """

    crops: NDArray[np.uint8]
    zone: NDArray[np.int64]
    score: NDArray[np.float32]
    split: NDArray[np.str_]
    kinds: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path) -> ZoneData:
        """Open a prepared folder; UsageError when it is not one."""
        table = CropTable.read(folder)
        kinds, zone = np.unique(table.kind, return_inverse=True)
        return cls(
            crops=open_pixels(folder, "crops", len(table)),
            zone=zone.astype(np.int64),
            score=table.score.astype(np.float32),
            split=table.split,
            kinds=tuple(kinds.tolist()),
        )


@dataclass(frozen=True)
class JudgeOptions:
    """How the judge is trained. ``minutes`` ends training early on a machine that is too slow for all epochs:
    the learning rate falls to zero by then either way, but the judge is another one."""

    epochs: int = 8
    batch: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 2e-2
    minutes: float = 60.0
    seed: int = 0


def train_judge(data: ZoneData, options: JudgeOptions) -> tuple[Judge, dict[str, Any]]:
    """Train on the train split; measure on the crops of the other splits.

    Returns
    -------
    (judge, report)
        The report has the held-out figures by zone kind (:func:`held_out`), steps and seconds.
    """
    torch.manual_seed(options.seed)
    random = np.random.default_rng(options.seed)
    judge = Judge(JudgeConfig(zones=data.kinds))
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train = np.flatnonzero((data.split == "train") & np.isfinite(data.score))
    if len(train) < options.batch:
        raise UsageError(f"{len(train)} training crops are fewer than a batch of {options.batch}")
    decayed = [p for p in judge.parameters() if p.ndim > 1]
    plain = [p for p in judge.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=options.learning_rate,
    )
    total = options.epochs * (len(train) // options.batch)
    started, step, loss_mean = time.process_time(), 0, float("nan")
    done = 0.0
    judge.train()
    while done < 1:
        order = random.permutation(train)
        for start in range(0, len(order) - options.batch + 1, options.batch):
            done = max(step / total, (time.process_time() - started) / (60 * options.minutes))
            if done >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = (
                    options.learning_rate * min(1.0, step / 100) * 0.5 * (1 + np.cos(np.pi * min(done, 1.0)))
                )
            rows = np.sort(order[start : start + options.batch])
            loss = _step(
                judge, optimizer, augment(data.crops[rows], random), data.zone[rows], data.score[rows]
            )
            loss_mean = loss if np.isnan(loss_mean) else 0.98 * loss_mean + 0.02 * loss
            step += 1
            if step % 100 == 0:
                logger.info(
                    "step %d of %d, loss %.4f, %.0f s", step, total, loss_mean, time.process_time() - started
                )
    judge.eval()
    report = {
        "steps": step,
        "seconds": round(time.process_time() - started, 1),
        "options": asdict(options),
        "held_out": held_out(judge, data),
    }
    return judge, report


def _step(
    judge: Judge,
    optimizer: torch.optim.Optimizer,
    crops: NDArray[np.uint8],
    zone: NDArray[np.int64],
    score: NDArray[np.float32],
) -> float:
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    predicted = judge(images.contiguous(memory_format=torch.channels_last), torch.from_numpy(zone))
    loss = F.smooth_l1_loss(predicted, torch.from_numpy(score), beta=0.1)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


def augment(crops: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Random 128² windows near the middle, with small changes of brightness, contrast and colour.

    Nothing that changes wrinkles: no blur, noise, scaling or rotation.

    Parameters
    ----------
    crops:
        uint8 [B, S, S, 3].

    Returns
    -------
    uint8 [B, 128, 128, 3]
    """
    margin = (crops.shape[1] - CROP_SIZE) // 2
    out = np.empty((len(crops), CROP_SIZE, CROP_SIZE, 3), np.uint8)
    for i, crop in enumerate(crops):
        y, x = margin + random.integers(-min(margin, 6), min(margin, 6) + 1, 2)
        window = crop[y : y + CROP_SIZE, x : x + CROP_SIZE].astype(np.float32)
        gain, offset = random.uniform(0.85, 1.15) * random.uniform(0.97, 1.03, 3), random.uniform(-12, 12)
        out[i] = np.clip((window - 128) * gain.astype(np.float32) + np.float32(128 + offset), 0, 255)
    return out


def judge_scores(
    judge: Judge, crops: NDArray[np.uint8], zone: NDArray[np.int64], batch: int = 64
) -> NDArray[np.float32]:
    """Scores float32 [N] of crops uint8 [N, 128, 128, 3] RGB with zone indices int64 [N]."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(crops), batch):
            images = torch.from_numpy(np.ascontiguousarray(crops[start : start + batch])).permute(0, 3, 1, 2)
            parts.append(judge(images.float() / 255, torch.from_numpy(zone[start : start + batch])).numpy())
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def held_out(judge: Judge, data: ZoneData) -> dict[str, dict[str, float]]:
    """By zone kind, and ``all``: number of crops outside the train split, mean absolute error, Spearman
    correlation."""
    rows = np.flatnonzero((data.split != "train") & np.isfinite(data.score))
    predicted = judge_scores(judge, centre(data.crops[rows]), data.zone[rows])
    error = np.abs(predicted - data.score[rows])
    figures = {}
    for index, kind in [*enumerate(data.kinds), (-1, "all")]:
        of_kind = np.ones(len(rows), bool) if index < 0 else data.zone[rows] == index
        if of_kind.any():
            figures[kind] = {
                "crops": int(of_kind.sum()),
                "mae": round(float(error[of_kind].mean()), 4),
                "spearman": round(_spearman(predicted[of_kind], data.score[rows][of_kind]), 4),
            }
    return figures


def _spearman(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    # Scores are real numbers, so ties are too rare to matter here.
    ranks = [np.argsort(np.argsort(values)).astype(np.float64) for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1]) if len(a) > 1 else 0.0


def save_judge(judge: Judge, report: dict[str, Any], folder: Path) -> None:
    """Write ``model.safetensors`` and ``config.json`` (shape, and the report under ``training``)."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in judge.state_dict().items()}, str(folder / WEIGHTS_FILE)
    )
    config = {
        "_class_name": "Judge",
        "zones": list(judge.config.zones),
        "width": judge.config.width,
        "training": report,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load_judge(folder: Path) -> tuple[Judge, dict[str, Any]]:
    """The judge in eval mode, and its training report."""
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        judge = Judge(JudgeConfig(zones=tuple(config["zones"]), width=config["width"]))
        judge.load_state_dict(load_file(str(folder / WEIGHTS_FILE)))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(
            f"{folder} does not hold a judge", str(error), "Train one: python -m training judge ZONES_DIR OUT"
        ) from error
    return judge.eval(), dict(config.get("training", {}))


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``judge`` to the command line."""
    parser = subparsers.add_parser(
        "judge", help="train the judge, a pixel-space score network used only to measure"
    )
    parser.add_argument("zones", type=Path, metavar="ZONES_DIR", help="prepared zones (prepare-zones)")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for model.safetensors and config.json")
    parser.add_argument("--epochs", type=int, default=JudgeOptions.epochs)
    parser.add_argument(
        "--minutes",
        type=float,
        default=JudgeOptions.minutes,
        help="stop by then, in minutes of processor time (default %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """``python -m training judge ZONES_DIR OUT``."""
    torch.set_num_threads(arguments.threads)
    options = JudgeOptions(epochs=arguments.epochs, minutes=arguments.minutes, seed=arguments.seed)
    judge, report = train_judge(ZoneData.open(arguments.zones), options)
    save_judge(judge, report, arguments.out)
    for kind, figures in report["held_out"].items():
        logger.info(
            "%-14s %5d crops, MAE %.3f, Spearman %.3f",
            kind,
            figures["crops"],
            figures["mae"],
            figures["spearman"],
        )
