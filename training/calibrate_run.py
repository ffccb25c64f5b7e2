"""``python -m training calibrate RUN``: fit a checkpoint's calibration on validation crops and write it down.

Two curves per kind of zone go into ``checkpoint/model_index.json``: ``score_calibration`` (ScoreNet's reading
→ score, from real crops) and ``calibration`` (wanted target → score to ask the model for, from its own
results as ScoreNet reads them). See `training.calibrate`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch.utils.data import default_collate

from agesdk.errors import UsageError
from agesdk.faces.zones import ZONE_KINDS
from training.calibrate import CONDITIONS, Curve, condition_curve, reading_curve
from training.checkpoint import load_component, save_component
from training.config import TrainingConfig, config_from_dict
from training.data import Samples, ZoneCrops
from training.ldla import sample_spec
from training.models import Models, build_models
from training.precision import channels_last, resolve
from training.validation import age_batch, prepare_batch

logger = logging.getLogger(__name__)

FEWEST_CROPS = 8
"""With fewer validation crops a zone is left uncalibrated."""


def calibrate(output: Path, crops_per_zone: int, vae: Path | None = None) -> dict[str, dict[str, Curve]]:
    """Calibrate the checkpoint of the run in ``output``; returns what was written.

    ``vae``: a component folder that takes the place of the checkpoint's VAE first (same latents, another
    decoder).

    Raises
    ------
    UsageError
        ``output`` is no run, or its data have no validation crops.
    """
    config = run_config(output)
    if vae is not None:
        save_component(load_component(vae), output / "checkpoint" / "vae")
    models = build_models(config)
    models.objective.eval()
    channels_last(models.objective)
    fast = resolve("auto", cpu=True) == "bf16"
    data = ZoneCrops.open(config.data.folder)
    samples = Samples(data, "val", config.data, sample_spec(config, models), config.run.seed)
    curves: dict[str, dict[str, Curve]] = {"calibration": {}, "score_calibration": {}}
    for index, kind in enumerate(ZONE_KINDS):
        rows = samples.rows[data.zone[samples.rows] == index]
        if len(rows) < FEWEST_CROPS:
            logger.warning("%s has %d validation crops and stays uncalibrated", kind, len(rows))
            continue
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            reading, condition, response = zone_curves(models, samples, rows, crops_per_zone, config)
        curves["score_calibration"][kind], curves["calibration"][kind] = reading, condition
        logger.info(
            "%s answers %s with %s", kind, [float(c) for c in CONDITIONS], np.round(response, 3).tolist()
        )
    path = output / "checkpoint" / "model_index.json"
    index_document = json.loads(path.read_text(encoding="utf-8")) | curves
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(index_document, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    return curves


def run_config(output: Path) -> TrainingConfig:
    """The configuration of the run in ``output``, with its own checkpoint as the model."""
    path = output / "config.yaml"
    if not path.is_file() or not (output / "checkpoint" / "unet").is_dir():
        raise UsageError(
            f"{output} is no run", "It has no config.yaml or no checkpoint/", "Train it: ldla --config"
        )
    config = config_from_dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    model = replace(config.model, checkpoint=str(output / "checkpoint"), vae=None, score_net=None)
    return replace(config, model=model)


@torch.no_grad()
def zone_curves(
    models: Models, samples: Samples, rows: NDArray[np.int64], count: int, config: TrainingConfig
) -> tuple[Curve, Curve, NDArray[np.float64]]:
    """ScoreNet's reading curve, the condition curve and the measured response of one kind of zone.

    ``rows``: rows of the data with crops of the zone; the condition curve uses ``count`` of them, spread by
    score.
    """
    spread = rows[np.argsort(samples.data.score[rows])]
    batches = [
        prepare_batch(
            default_collate([samples.at_row(int(row)) for row in part]), models, torch.device("cpu"), "mean"
        )
        for part in np.array_split(spread, max(1, len(spread) // 32))
    ]
    readings = np.concatenate([read(models, b["latents"], b["zone"]) for b in batches])
    scores = np.concatenate([b["score"].numpy() for b in batches]).astype(np.float64)
    reading = reading_curve(readings, scores, bins=max(2, min(8, len(scores) // 4)))
    picks = spread[np.linspace(0, len(spread) - 1, min(count, len(spread))).astype(int)]
    batch: dict[str, Any] = prepare_batch(
        default_collate([samples.at_row(int(row)) for row in picks]), models, torch.device("cpu"), "mean"
    )
    knots = np.array(reading)

    def respond(condition: float) -> NDArray[np.float64]:
        aged = age_batch(models, batch, torch.full((len(picks),), condition), config.inference)
        # What the residual paste shows: the model's latents where there is skin, the source's elsewhere.
        if models.objective.conditioned:
            aged = batch["mask"] * aged + (1.0 - batch["mask"]) * batch["latents"]
        calibrated = np.interp(read(models, aged, batch["zone"]), knots[:, 0], knots[:, 1])
        return np.asarray(calibrated, np.float64)

    curve, response = condition_curve(respond)
    return reading, curve, response


def read(models: Models, latents: torch.Tensor, zone: torch.Tensor) -> NDArray[np.float64]:
    """ScoreNet's readings of latents [B, C, h, w]: float64 [B]."""
    readings: torch.Tensor = models.objective.score_net(latents, zone)
    return readings.double().numpy()
