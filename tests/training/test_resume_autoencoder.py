"""The autoencoder's two trainings, interrupted and resumed: bit for bit what they would have been.

They run in the precision that the machine at hand is fastest with: bf16 where the CPU has matrix tiles.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from training import refine_decoder, train_vae
from training.autoencoder import SmallVAE, SmallVAEConfig
from training.checkpoint import load_component
from training.refine_decoder import RefineConfig, refine
from training.train_vae import VAEConfig

TINY = SmallVAEConfig(4, (8, 16), (1, 1), (16, 8, 8), (1, 1, 1))


class Interrupted(Exception):
    """What stands for a power cut."""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, module: Any, step: int) -> None:
    """Let the loss of a step, counted from 0, never be computed."""
    calls = []

    def loss(*arguments: Any) -> Tensor:
        calls.append(1)
        if len(calls) > step:
            raise Interrupted
        return train_loss(*arguments)

    train_loss = train_vae.reconstruction_loss
    monkeypatch.setattr(module, "reconstruction_loss", loss)


def assert_same(a: Any, b: Any, path: str = "state") -> None:
    """Two nested states are equal bit for bit."""
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for n, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{path}[{n}]")
    else:
        assert a == b, path


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"{n}.png" for n in range(12)]
    for name in names:
        small = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(small, (160, 220), interpolation=cv2.INTER_CUBIC))
    with open(folder / "index.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file"], *([name] for name in names)])
    return folder


@pytest.mark.parametrize("stop", [3, 5])
def test_an_interrupted_vae_training_ends_like_an_uninterrupted_one(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(train_vae, "SmallVAE", partial(SmallVAE, TINY))
    config = VAEConfig(
        steps=6, batch_size=4, crop_size=32, full_size_every=3, patches_per_face=2, checkpoint_every=2
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_vae.run(faces, whole, config)
    with monkeypatch.context() as patch:
        interrupt_at(patch, train_vae, stop)
        with pytest.raises(Interrupted):
            train_vae.run(faces, parts, config)
    saved = torch.load(parts / "vae-state.pt", weights_only=True)
    assert saved["step"] == stop // 2 * 2 and not (parts / "vae").exists()
    torch.rand(5)  # what else a process draws before must not matter
    train_vae.run(faces, parts, config)
    states = [torch.load(folder / "vae-state.pt", weights_only=True) for folder in (whole, parts)]
    assert states[0]["step"] == 6
    assert_same(*states)
    assert_same(*(load_component(folder / "vae").state_dict() for folder in (whole, parts)))


@pytest.mark.parametrize("refused", [False, True])
def test_without_resume_a_vae_training_starts_again(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    monkeypatch.setattr(train_vae, "SmallVAE", partial(SmallVAE, TINY))
    config = VAEConfig(steps=1, batch_size=2, crop_size=16, patches_per_face=1)
    first = train_vae.run(faces, tmp_path / "run", config).state_dict()
    first = {name: value.clone() for name, value in first.items()}
    # Of the finished state nothing is left to do; without it the one step is taken again, to the same end.
    taken: list[int] = []
    count: Callable[..., Tensor] = train_vae.reconstruction_loss
    monkeypatch.setattr(train_vae, "reconstruction_loss", lambda *a: (taken.append(1), count(*a))[1])
    again = train_vae.run(faces, tmp_path / "run", config, resume=not refused).state_dict()
    assert len(taken) == int(refused)
    assert_same(first, again)


@pytest.mark.parametrize("stop", [3, 5])
def test_an_interrupted_refinement_of_the_decoder_ends_like_an_uninterrupted_one(
    zones_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    # The adversarial term sets in at half the warm-up, and so between the state that is saved and the end.
    config = RefineConfig(steps=6, batch_size=2, window=32, warmup=4)
    monkeypatch.setattr(refine_decoder, "SAVE_EVERY", 2)

    def start() -> SmallVAE:
        torch.manual_seed(3)
        return SmallVAE(TINY)

    before = start().state_dict()
    whole = refine(zones_folder, start(), tmp_path / "whole.pt", config)
    with monkeypatch.context() as patch:
        interrupt_at(patch, refine_decoder, stop)
        with pytest.raises(Interrupted):
            refine(zones_folder, start(), tmp_path / "parts.pt", config)
    assert torch.load(tmp_path / "parts.pt", weights_only=True)["step"] == stop // 2 * 2
    torch.rand(5)
    parts = refine(zones_folder, start(), tmp_path / "parts.pt", config)
    assert_same(whole.state_dict(), parts.state_dict())
    assert_same(*(torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "parts")))
    for name, value in whole.state_dict().items():
        changed = not torch.equal(value, before[name])
        assert changed == name.startswith("decoder."), name
