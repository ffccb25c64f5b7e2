"""Checkpoints of both layouts, tiny, and the bundles exported from them once for all tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.fullsize import SCHEDULER, write_checkpoint
from export.ldla import Options, export_ldla
from training.autoencoder import SmallVAE, SmallVAEConfig
from training.checkpoint import save_component
from training.scorenet import ScoreNet, ScoreNetConfig
from training.unet import ConditionEncoder, ConditionEncoderConfig, SmallUNet, SmallUNetConfig

REAL_SCORE_CURVE = [[0.0, 0.1], [1.0, 0.9]]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sd_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd") / "tiny"
    write_checkpoint("tiny", folder)
    return folder


@pytest.fixture(scope="session")
def sd_bundle(sd_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd_bundle") / "bundle"
    export_ldla(Options(sd_checkpoint, folder, refiner=sd_checkpoint, progress=False))
    return folder


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditioned small model with weights as after training: nothing left at its zero start."""
    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    modules: dict[str, nn.Module] = {
        "vae": SmallVAE(SmallVAEConfig(4, (8, 8), (1, 1), (8, 8, 8), (1, 1, 1))),
        "unet": SmallUNet(SmallUNetConfig(4, 9, (8, 16), 1, 2, 2, 8, 16)),
        "condition_encoder": ConditionEncoder(ConditionEncoderConfig(8, 2, 8, 3)),
        "score_net": ScoreNet(ScoreNetConfig(4, (8, 8, 8))),
    }
    torch.manual_seed(1)
    for name, module in modules.items():
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        if isinstance(module, SmallVAE):
            module.latents_mean.normal_()
            module.latents_std.uniform_(0.5, 2.0)
        save_component(module, folder / name)
    scheduler = {**SCHEDULER, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index = {
        "_class": "agesdk-ldla",
        "name": "small test model",
        "version": "7",
        "mode": "conditioned",
        "blur_sigma": 5.0,
        "detail_sigma": 9.0,
        "rise_sigma": 2.0,
        "smooth_skin_rise_sigma": 1.5,
        "chroma": 0.5,
        "amplitude": 0.75,
        "smooth_skin_amplitude": 0.5,
        "defaults": {"steps": 8, "strength": 0.75, "guidance_scale": 2.0},
        "provenance": {"recipe": "none", "data": "noise", "licences": ["weights: Apache-2.0"]},
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def small_bundle(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small_bundle")
    calibration, quality = folder / "calibration.json", folder / "quality.json"
    calibration.write_text(json.dumps({"score_calibration": {"forehead": REAL_SCORE_CURVE}}))
    quality.write_text(json.dumps({"mean_spearman": 0.97}))
    options = Options(
        small_checkpoint, folder / "bundle", calibration=calibration, quality=quality, progress=False
    )
    export_ldla(options)
    return folder / "bundle"
