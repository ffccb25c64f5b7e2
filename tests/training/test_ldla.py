"""The trainer: resume, several processes, checkpoints, a Stable Diffusion folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator

from training.checkpoint import latest_state, list_states, load_component
from training.config import config_from_dict
from training.ldla import INTERRUPTED, Trainer, TrainingError, learning_rate, run

ROOT = Path(__file__).parents[2]
ConfigMaker = Callable[..., dict[str, Any]]


def final_state(output: str | Path) -> dict[str, Any]:
    folder = latest_state(Path(output) / "states")
    assert folder is not None
    state: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    return state


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Equal bit for bit, whatever is nested in what."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for n, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{path}[{n}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


ADVERSARIAL = [
    {"steps": 4, "batch_size": 2, "learning_rate": 1e-3},
    {"steps": 2, "batch_size": 3, "learning_rate": 5e-4, "adversarial": 0.1},
]


@pytest.mark.parametrize(
    "changes",
    [
        {"report": {"checkpoint_every": 3, "validate_every": 3, "tensorboard": False, "grid_crops": 1}},
        {"stages": ADVERSARIAL, "report": {"checkpoint_every": 5, "validate_every": 5, "tensorboard": False}},
    ],
    ids=["every loss", "adversarial stage"],
)
def test_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(
    small_config: ConfigMaker, tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole = small_config(output=str(tmp_path / "whole"), **changes)
    assert run(config_from_dict(whole)) == 0

    parts = small_config(output=str(tmp_path / "parts"), **changes)
    trainer = Trainer(config_from_dict(parts), Accelerator(cpu=True))
    trainer._start(resume=False)
    torch.manual_seed(1)  # what `train` does at its start: the seed of rank 0
    trainer = None  # type: ignore[assignment]
    interrupted = run_until(parts, changes["report"]["checkpoint_every"])
    assert interrupted == INTERRUPTED
    assert [folder.name for folder in list_states(Path(parts["output"]) / "states")] == [
        f"step-{changes['report']['checkpoint_every']:08d}"
    ]
    torch.rand(7)  # whatever else a process does must not matter
    assert run(config_from_dict(parts), resume=True) == 0
    assert_same(final_state(whole["output"]), final_state(parts["output"]))


def run_until(document: dict[str, Any], step: int) -> int:
    """Run in this process and ask it to stop, as SIGTERM does, after ``step`` steps."""
    raise NotImplementedError
