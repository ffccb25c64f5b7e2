"""What ``prepare-zones`` and ``vae`` say of folders they can not use, and what they leave behind."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from agesdk.cli.demo import demo_portrait
from agesdk.errors import AgeSDKError, UsageError
from benchmarks.quality.population import Population
from training.splits import split_of
from training.train_vae import make_patches
from training.zones import prepare


def faces(folder: Path, age: str, shape: tuple[int, int], name: str = "a.png") -> Path:
    folder.mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / name), picture)
    (folder / "index.csv").write_text(f"file,age\n{name},{age}\n", "utf-8")
    return folder


def test_an_age_that_is_no_number_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 2: age is 'abc', not a number"):
        prepare(faces(tmp_path / "faces", "abc", (64, 64)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_run_leaves_no_data_set_marked_as_done(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "DONE").touch()
    with pytest.raises(UsageError, match="None of the 1 pictures"):
        prepare(faces(tmp_path / "faces", "30", (64, 64)), tmp_path / "out")
    assert not (tmp_path / "out" / "DONE").exists()


def test_faces_of_one_age_fit_no_wrinkle_index(tmp_path: Path) -> None:
    folder = faces(tmp_path / "faces", "30", (64, 64))
    (folder / "a.png").unlink()
    shutil.copy(demo_portrait(), folder / "a.png")
    with pytest.raises(UsageError, match="12 to 85 years: 1 different"):
        prepare(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "wrinkle-index.json").exists()


def test_a_users_own_scores_need_no_ages(tmp_path: Path) -> None:
    folder = faces(tmp_path / "faces", "", (64, 64))
    (folder / "a.png").unlink()
    shutil.copy(demo_portrait(), folder / "a.png")
    scores = tmp_path / "scores.csv"
    scores.write_text("file,zone,score\na.png,forehead,0.25\na.png,glabella,1.5\n", "utf-8")
    with pytest.raises(UsageError, match=r"line 3: score 1\.5"):
        prepare(folder, tmp_path / "out", scores)
    scores.write_text("file,zone,score\na.png,crows_feet,0.5\n", "utf-8")
    with pytest.raises(UsageError, match=r"line 2: 'crows_feet' is no zone.*crows_feet_left"):
        prepare(folder, tmp_path / "out", scores)
    scores.write_text("file,zone,score\na.png,forehead\n", "utf-8")
    with pytest.raises(UsageError, match="line 2: score is '', not a number"):
        prepare(folder, tmp_path / "out", scores)
    with pytest.raises(UsageError, match="can not be read"):
        prepare(folder, tmp_path / "out", tmp_path / "none.csv")
    assert not (tmp_path / "out").exists()
    scores.write_text("file,zone,score\na.png,forehead,0.25\n", "utf-8")
    prepare(folder, tmp_path / "out", scores)
    with open(tmp_path / "out" / "index.csv", newline="", encoding="utf-8") as file:
        written = {row["zone"]: row["score"] for row in csv.DictReader(file)}
    assert written.pop("forehead") == "0.25000" and set(written.values()) == {"nan"}
    with pytest.raises(UsageError, match="no wrinkle index of crows_feet"):
        Population.open(tmp_path / "out")


@pytest.mark.parametrize("shape", [(300, 600), (600, 300)])
def test_patches_come_from_inside_pictures_of_any_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    name = next(f"face{n}.png" for n in range(100) if split_of(f"face{n}.png") == "train")
    patches = make_patches(faces(tmp_path / "faces", "30", shape, name), tmp_path / "patches.npy", 20, seed=0)
    assert patches.shape == (20, 128, 128, 3) and patches.std(axis=(1, 2, 3)).min() > 10.0


def test_a_folder_that_is_none_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(AgeSDKError, match=r"index\.csv"):
        make_patches(tmp_path / "nothing", tmp_path / "out" / "patches.npy", 4, seed=0)
    assert not (tmp_path / "out").exists()
