"""Small inputs for the training tests: prepared zone crops, a tiny VAE, configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests import zone_crops  # noqa: E402
from training.autoencoder import SmallVAE, SmallVAEConfig  # noqa: E402
from training.checkpoint import save_component  # noqa: E402

LATENT_CHANNELS = 4


@pytest.fixture(autouse=True)
def _fresh_process_state() -> None:
    """One thread, and none of the settings that accelerate keeps for the life of a process."""
    from accelerate.state import AcceleratorState, GradientState

    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def zones_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two faces' worth of crops for training, one each for validation and test; one crop without a score."""
    return zone_crops.save(tmp_path_factory.mktemp("zones"))


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = SmallVAEConfig(
        latent_channels=LATENT_CHANNELS,
        encoder_channels=(8, 8),
        encoder_blocks=(1, 1),
        decoder_channels=(8, 8, 8),
        decoder_blocks=(1, 1, 1),
    )
    return save_component(SmallVAE(config), tmp_path_factory.mktemp("components") / "vae")


@pytest.fixture
def small_config(zones_folder: Path, vae_folder: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A run from scratch with a learned condition in conditioned mode, with every loss term."""

    def make(**changes: Any) -> dict[str, Any]:
        document: dict[str, Any] = {
            "output": str(tmp_path / "run"),
            "data": {"folder": str(zones_folder), "balance_zones": True, "dark_skin_weight": 1.5},
            "model": {
                "vae": str(vae_folder),
                "mode": "conditioned",
                "unet": {"channels": [8, 16], "blocks": 1, "heads": 2, "embedding_width": 16},
                "condition_encoder": {"tokens": 2, "width": 8},
                "score_net_options": {"channels": [8, 8, 8]},
            },
            "condition": {"type": "learned", "zone_share": 0.25},
            "stages": [{"steps": 6, "batch_size": 2, "learning_rate": 1e-3, "final_learning_rate": 1e-4}],
            "objective": {"mask_background": 0.1, "cycle_every": 2, "cycle_batch": 1},
            "optimizer": {"warmup_steps": 2},
            "run": {"cpu": True, "ema_decay": 0.9},
            "report": {"checkpoint_every": 3, "validate_every": 0, "tensorboard": False},
            "scheduler": {"prediction_type": "v_prediction"},
        }
        for key, value in changes.items():
            document[key] = (
                {**document[key], **value} if isinstance(value, dict) and key in document else value
            )
        return document

    return make
