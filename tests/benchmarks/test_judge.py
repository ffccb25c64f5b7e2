"""The judge: shapes, learning, data reading, round trip."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from agesdk.errors import UsageError
from training.crop_table import centre
from training.judge import (
    Judge,
    JudgeConfig,
    JudgeOptions,
    ZoneData,
    augment,
    judge_scores,
    load_judge,
    save_judge,
    train_judge,
)

KINDS = ("forehead", "upper_lip")


def stripes(score: float, random: np.random.Generator) -> np.ndarray:
    """A crop whose stripes are the stronger, the higher its score."""
    y = np.arange(160)[:, None, None]
    wave = 40 * score * np.sin(y * 0.9 + random.uniform(0, 6))
    return np.clip(128 + wave + random.normal(0, 4, (160, 160, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zones")
    random = np.random.default_rng(0)
    scores = random.uniform(0, 1, 96)
    np.save(folder / "crops.npy", np.stack([stripes(score, random) for score in scores]))
    with open(folder / "index.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "kind", "score", "split"])
        for i, score in enumerate(scores):
            shown = "nan" if i % 40 == 0 else f"{score:.4f}"
            writer.writerow([f"{i}.jpg", KINDS[i % 2], shown, "test" if i >= 72 else "train"])
    return folder


def test_scores_are_shares_and_depend_on_the_zone() -> None:
    torch.manual_seed(0)
    judge = Judge(JudgeConfig(KINDS, width=4)).eval()
    images = torch.rand(3, 3, 128, 128)
    first, second = (
        judge(images, torch.zeros(3, dtype=torch.long)),
        judge(images, torch.ones(3, dtype=torch.long)),
    )
    assert first.shape == (3,)
    assert bool(((first > 0) & (first < 1)).all())
    assert not torch.allclose(first, second)


def test_crops_of_too_little_skin_have_no_score(folder: Path) -> None:
    data = ZoneData.open(folder)
    assert data.kinds == KINDS
    assert np.isnan(data.score).sum() == 3
    assert data.crops.shape == (96, 160, 160, 3)


def test_it_learns_and_survives_saving(folder: Path, tmp_path: Path) -> None:
    data = ZoneData.open(folder)
    judge, report = train_judge(data, JudgeOptions(epochs=8, batch=8, learning_rate=3e-3, minutes=0.2))
    held_out = report["held_out"]
    assert set(held_out) == {*KINDS, "all"}
    assert held_out["all"]["crops"] == 23  # 24 of the test split, one without a score
    assert held_out["all"]["spearman"] > 0.5
    save_judge(judge, report, tmp_path / "judge")
    again, stored = load_judge(tmp_path / "judge")
    crops, zone = centre(data.crops[:6]), data.zone[:6]
    assert np.array_equal(judge_scores(again, crops, zone), judge_scores(judge, crops, zone))
    assert stored["held_out"] == held_out


def test_augmentation_keeps_wrinkles_and_moves_tone() -> None:
    random = np.random.default_rng(1)
    crops = np.stack([stripes(1.0, random) for _ in range(8)])
    jittered = augment(crops, random)
    assert jittered.shape == (8, 128, 128, 3)
    contrast = jittered.astype(float).mean(2).std(1).mean(-1) / crops.astype(float).mean(2).std(1).mean(-1)
    assert contrast.min() > 0.8 and contrast.max() < 1.2


@pytest.mark.parametrize("missing", ["crops.npy", "index.csv"])
def test_a_folder_that_is_not_prepared_is_named(folder: Path, tmp_path: Path, missing: str) -> None:
    for name in {"crops.npy", "index.csv"} - {missing}:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(UsageError, match="prepare-zones"):
        ZoneData.open(tmp_path)


def test_a_folder_without_a_judge_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="training judge"):
        load_judge(tmp_path)
