"""``python -m training ldla``: the trainer of zone-aging models (LDLA), from a diffusers checkpoint or from
scratch.

The loop reads: draw a batch, encode it with the frozen VAE, take the total loss (equation 6), step the
optimiser, move the average. Everything a sample needs is a function of its position, so a run resumed from
its last state continues bit for bit. Several GPUs or CPU processes of one machine: ``--processes N``; several
machines: torchrun or ``accelerate launch`` with ``-m training ldla --config FILE``.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from agesdk.errors import AgeSDKError
from agesdk.faces.zones import CROP_SIZE
from training import checkpoint, precision
from training.config import TrainingConfig, config_to_dict, load_config
from training.data import CachedLatents, PositionBatches, Samples, SampleSpec, ZoneCrops
from training.ema import EMA
from training.models import Models, build_models, save_checkpoint
from training.objective import DiscriminatorObjective
from training.validation import prepare_batch, validation_grid, validation_losses, write_png

logger = logging.getLogger(__name__)

LATENT_FACTOR = 8
"""Pixels of a crop per latent pixel, along one side."""

INTERRUPTED = 143
"""Exit code after SIGTERM or SIGINT: the state was saved, ``--resume`` continues."""


class TrainingError(AgeSDKError):
    """A run can not start, resume or go on."""


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Learning rate of optimiser step ``step`` of the run, from 0."""
    stage, within = config.stage_at(step)
    warmup = config.optimizer.warmup_steps
    return config.stages[stage].rate_at(within) * (min(1.0, (step + 1) / warmup) if warmup else 1.0)


def sample_spec(config: TrainingConfig, models: Models) -> SampleSpec:
    """The spec of a run's samples."""
    side = CROP_SIZE // LATENT_FACTOR
    return SampleSpec.of(config, (models.vae.latent_channels, side, side), models.scheduler)


def run(config: TrainingConfig, resume: bool = False) -> int:
    """Train; returns the exit code: 0 when all steps are done, `INTERRUPTED` when a signal stopped it.

    Raises
    ------
    ConfigError, CheckpointError
        The configuration, data or networks are not usable.
    TrainingError
        The output folder holds another run, or the loss is no longer finite.
    """
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    accelerator = Accelerator(
        cpu=config.run.cpu,
        mixed_precision=precision.resolve(config.run.mixed_precision, config.run.cpu),
        gradient_accumulation_steps=config.run.gradient_accumulation,
    )
    return Trainer(config, accelerator).train(resume)


class Trainer:
    """One run's objects and its loop."""

    def __init__(self, config: TrainingConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.output = Path(config.output)
        set_seed(config.run.seed)
        self.models = build_models(config)
        data = ZoneCrops.open(config.data.folder)
        self.train_samples = self._samples(data, "train")
        self.validation_samples = self._samples(data, "val") if config.report.validate_every else None
        self.models.vae.module.to(accelerator.device)
        precision.channels_last(self.models.objective)
        self.wrapped, self.optimizer = accelerator.prepare(self.models.objective, self._optimizer())
        self.wrapped_discriminator: Any = None
        self.discriminator_optimizer: Any = None
        if self.models.discriminator is not None:
            judged = DiscriminatorObjective(self.models.discriminator, config.objective.discriminator_noise)
            rate = config.objective.discriminator_rate
            optimizer = torch.optim.AdamW(judged.parameters(), lr=rate, betas=(0.5, 0.99))
            self.wrapped_discriminator, self.discriminator_optimizer = accelerator.prepare(judged, optimizer)
        self.ema = EMA(self.models.objective, config.run.ema_decay)
        self.step, self.position = 0, 0

    def train(self, resume: bool) -> int:
        config, accelerator = self.config, self.accelerator
        self._start(resume)
        set_seed(config.run.seed + accelerator.process_index + 1)
        if resume and (latest := checkpoint.latest_state(self.output / "states")) is not None:
            self._restore(latest)
        writer = self._tensorboard()
        batches = self._batches()
        bar = tqdm(
            total=config.steps,
            initial=self.step,
            unit="step",
            disable=not accelerator.is_local_main_process,
        )
        sums: dict[str, tuple[Tensor, int]] = {}
        clock, logged = time.perf_counter(), self.step
        with _stop_requested(accelerator) as stopping, bar:
            while self.step < config.steps:
                for name, value in self._optimizer_step(batches).items():
                    total, count = sums.get(name, (torch.zeros((), device=accelerator.device), 0))
                    sums[name] = (total + value, count + 1)
                bar.update()
                stop = stopping()
                last = stop or self.step == config.steps
                if last or self.step % config.report.log_every == 0:
                    pace = (time.perf_counter() - clock) / max(1, self.step - logged)
                    self._log(writer, bar, sums, pace)
                    sums, clock, logged = {}, time.perf_counter(), self.step
                if last or self.step % config.report.checkpoint_every == 0:
                    self._save()
                if not stop and self._validation_due():
                    self._validate(writer)
                    clock, logged = time.perf_counter(), self.step
                if stop:
                    logger.info("stopped at step %d of %d; continue with --resume", self.step, config.steps)
                    break
        if writer is not None:
            writer.close()
        accelerator.wait_for_everyone()
        return 0 if self.step >= config.steps else INTERRUPTED

    def _optimizer_step(self, batches: Iterator[dict[str, Any]]) -> dict[str, Tensor]:
        """One optimiser step over its micro-batches; gives the mean of each loss term."""
        config, accelerator = self.config, self.accelerator
        stage, _ = config.stage_at(self.step)
        rate = learning_rate(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        cycle = self.step % config.objective.cycle_every == 0
        means: dict[str, Tensor] = {}
        for _ in range(config.run.gradient_accumulation):
            batch = prepare_batch(next(batches), self.models, accelerator.device, config.objective.latents)
            with accelerator.accumulate(self.wrapped):
                terms, estimate = self.wrapped(batch, stage, cycle)
                accelerator.backward(terms["total"])
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(
                        self.wrapped.parameters(), config.optimizer.max_grad_norm
                    )
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
            skipped = accelerator.optimizer_step_was_skipped
            if self.wrapped_discriminator is not None and config.stages[stage].adversarial > 0.0:
                terms["discriminator"] = self._discriminator_step(batch, estimate)
            for name, value in terms.items():
                share = value.detach().float() / config.run.gradient_accumulation
                means[name] = means[name] + share if name in means else share
            self.position += len(batch["zone"]) * accelerator.num_processes
        means["gradient_norm"] = norm.detach().float()
        if not skipped:
            self.ema.update(self.models.objective)
        self.step += 1
        return means

    def _discriminator_step(self, batch: dict[str, Any], estimate: Tensor) -> Tensor:
        # accelerate counts micro-batches in accumulate(); this model steps by the count of the other.
        accelerator, model = self.accelerator, self.wrapped_discriminator
        together = nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model)
        with together:
            loss: Tensor = model(batch, estimate)
            accelerator.backward(loss)
            self.discriminator_optimizer.step()
            self.discriminator_optimizer.zero_grad(set_to_none=True)
        return loss

    def _optimizer(self) -> torch.optim.Optimizer:
        """AdamW over UNet and condition, and ScoreNet at its own rate; frozen parameters are left out."""
        config, objective = self.config.optimizer, self.models.objective
        groups = [
            ([*objective.unet.parameters(), *objective.condition.parameters()], 1.0),
            (list(objective.score_net.parameters()), config.score_net_factor),
        ]
        trained = [([p for p in parameters if p.requires_grad], factor) for parameters, factor in groups]
        return torch.optim.AdamW(
            [{"params": parameters, "factor": factor} for parameters, factor in trained if parameters],
            lr=self.config.stages[0].learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        )

    def _samples(self, data: ZoneCrops, split: str) -> Samples:
        config = self.config
        spec = sample_spec(config, self.models)
        folder = config.data.latents if split == "train" else None
        cache = CachedLatents.open(folder, len(data.crops), spec.latent_shape) if folder else None
        return Samples(data, split, config.data, spec, config.run.seed, cache)

    def _batches(self) -> Iterator[dict[str, Any]]:
        """Micro-batches from the current step to the end of the run."""
        config, accelerator = self.config, self.accelerator
        sizes = [stage.batch_size for stage in config.stages for _ in range(stage.steps)][self.step :]
        sampler = PositionBatches(
            self.position,
            [size for size in sizes for _ in range(config.run.gradient_accumulation)],
            accelerator.process_index,
            accelerator.num_processes,
        )
        # A loader without a generator of its own would draw from torch's, which a resume has just restored.
        generator = torch.Generator().manual_seed(0)
        workers = config.run.workers
        return iter(
            DataLoader(self.train_samples, batch_sampler=sampler, num_workers=workers, generator=generator)
        )

    def _start(self, resume: bool) -> None:
        states = self.output / "states"
        if not resume and checkpoint.latest_state(states) is not None:
            raise TrainingError(
                f"{self.output} holds a run already",
                fix="Continue it with --resume, or choose another output folder",
            )
        document = config_to_dict(self.config)
        path = self.output / "config.yaml"
        if self.accelerator.is_main_process:
            if resume and path.exists():
                for key in _differing(yaml.safe_load(path.read_text(encoding="utf-8")), document):
                    logger.warning("%s differs from the interrupted run's", key)
            self.output.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        self.accelerator.wait_for_everyone()

    def _state(self) -> dict[str, checkpoint.HasState]:
        state: dict[str, checkpoint.HasState] = {
            "model": self.models.objective,
            "optimizer": self.optimizer,
            "ema": self.ema,
        }
        if self.models.discriminator is not None:
            state["discriminator"] = self.models.discriminator
            state["discriminator_optimizer"] = self.discriminator_optimizer
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler
        return state

    def _restore(self, folder: Path) -> None:
        restored = checkpoint.load_state(folder, self._state(), self.accelerator.process_index)
        self.step, self.position = restored.step, int(restored.extra["position"])
        logger.info("continuing from step %d (%s)", self.step, folder)

    def _save(self) -> None:
        """Training state, and the checkpoint folder with averaged weights."""
        accelerator = self.accelerator
        rng = gather_object([checkpoint.rng_state()])
        if accelerator.is_main_process:
            extra = {"position": self.position}
            keep = self.config.report.keep_last
            checkpoint.save_state(self.output / "states", self.step, self._state(), rng, extra, keep)
            provenance = {
                "recipe": "python -m training ldla",
                **self.config.provenance,
                "steps": self.step,
                "samples": self.position,
                "config": _without_folders(config_to_dict(self.config)),
            }
            with self.ema.applied(self.models.objective):
                save_checkpoint(self.output / "checkpoint", self.models, self.config, provenance)
        accelerator.wait_for_everyone()

    def _validation_due(self) -> bool:
        every = self.config.report.validate_every
        return every > 0 and (self.step == self.config.steps or self.step % every == 0)

    def _validate(self, writer: Any) -> None:
        """Losses and a grid of held-out crops under the averaged weights, by the main process."""
        config, accelerator = self.config, self.accelerator
        if accelerator.is_main_process and self.validation_samples is not None:
            modules = [m for m in (self.models.objective, self.models.discriminator) if m is not None]
            for module in modules:
                module.eval()
            # What validation draws must not move the generators of the training that goes on after it.
            devices = [accelerator.device] if accelerator.device.type == "cuda" else []
            with (
                torch.random.fork_rng(devices),
                self.ema.applied(self.models.objective),
                accelerator.autocast(),
            ):
                terms = validation_losses(
                    self.models,
                    self.validation_samples,
                    config.stage_at(self.step - 1)[0],
                    config.report.validation_batches,
                    accelerator.device,
                    config.objective.latents,
                )
                grid = validation_grid(
                    self.models, self.validation_samples, config.report, config.inference, accelerator.device
                )
            for module in modules:
                module.train()
            write_png(self.output / "grids" / f"step-{self.step:08d}.png", grid)
            logger.info("step %d, validation %s", self.step, _show(terms))
            if writer is not None:
                for name, value in terms.items():
                    writer.add_scalar(f"validation/{name}", value, self.step)
                writer.add_image("validation", grid, self.step, dataformats="HWC")
        accelerator.wait_for_everyone()

    def _tensorboard(self) -> Any:
        if not (self.accelerator.is_main_process and self.config.report.tensorboard):
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.output / "tensorboard"), purge_step=self.step)  # type: ignore[no-untyped-call]

    def _log(self, writer: Any, bar: Any, sums: dict[str, tuple[Tensor, int]], pace: float) -> None:
        names = sorted(sums)
        means = torch.stack([sums[name][0] / sums[name][1] for name in names])
        means = self.accelerator.reduce(means, "mean")
        terms = dict(zip(names, means.tolist(), strict=True))
        if not math.isfinite(terms["total"]):
            raise TrainingError(
                f"the loss is {terms['total']} at step {self.step}",
                _show(terms),
                "Continue from the last state with a lower learning rate or run.mixed_precision: no",
            )
        bar.set_postfix_str(f"loss {terms['total']:.4f}")
        if self.accelerator.is_main_process:
            logger.info("step %d, %s, %.3f s a step", self.step, _show(terms), pace)
            if writer is not None:
                for name, value in terms.items():
                    writer.add_scalar(f"training/{name}", value, self.step)
                writer.add_scalar("training/learning_rate", self.optimizer.param_groups[0]["lr"], self.step)
                writer.add_scalar("training/seconds_per_step", pace, self.step)


@contextmanager
def _stop_requested(accelerator: Accelerator) -> Iterator[Any]:
    """Gives a function that tells whether any process got SIGTERM or SIGINT; the handlers are put back
    after."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    def stopping() -> bool:
        if accelerator.num_processes == 1:
            return bool(received)
        count = torch.tensor(len(received), device=accelerator.device)
        return bool(accelerator.reduce(count, "sum").item())

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _without_folders(document: dict[str, Any]) -> dict[str, Any]:
    """A configuration for publication: its folders, which say how a machine is laid out, by name only."""
    shown: dict[str, Any] = json.loads(json.dumps(document))
    shown.pop("provenance")
    places = [(shown, "output"), *((shown["data"], key) for key in ("folder", "latents"))]
    places += [(shown["model"], key) for key in ("checkpoint", "vae", "score_net")]
    for section, key in places:
        if section[key] is not None:
            section[key] = Path(section[key]).name
    return shown


def _differing(old: Any, new: Any, path: str = "") -> list[str]:
    """Key paths at which two nested mappings differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [
            found
            for key in keys
            for found in _differing(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [path]


def _show(terms: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in terms.items())


def register(subparsers: Any) -> None:
    """Add ``ldla`` to the command line."""
    parser = subparsers.add_parser(
        "ldla",
        help="train a zone-aging model from a Stable Diffusion folder or from scratch",
        description="Train UNet and ScoreNet with the LDLA losses. Configurations: training/configs/.",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the newest state in the output folder"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, e.g. stages.0.steps=1000",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="train on N processes of this machine (torchrun)",
    )
    parser.set_defaults(run=command)


def command(arguments: argparse.Namespace) -> int:
    """``python -m training ldla``."""
    config = load_config(arguments.config, arguments.set)
    if arguments.processes > 1 and "LOCAL_RANK" not in os.environ:
        options = [f"--set={override}" for override in arguments.set] + ["--resume"] * arguments.resume
        launch(arguments.processes, ["ldla", f"--config={arguments.config}", *options])
    return run(config, resume=arguments.resume)


def launch(processes: int, arguments: Sequence[str]) -> NoReturn:
    """Become torchrun with ``processes`` times ``python -m training ARGUMENTS``."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    os.execv(sys.executable, [sys.executable, *torchrun, "-m", "training", *arguments])
