"""Held-out faces, and real crops of like scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agesdk.errors import UsageError
from benchmarks.quality.population import Population, held_out_portraits
from tests.benchmarks.conftest import PEOPLE


@pytest.fixture(scope="module")
def population(zones_folder: Path) -> Population:
    return Population.open(zones_folder)


def faces(folder: Path, ages: bool = True) -> Path:
    lines = [f"{person:02d}.png,{20 + 2 * person if ages else ''}" for person in range(PEOPLE)]
    (folder / "index.csv").write_text("\n".join(["file,age", *lines]) + "\n")
    return folder


def test_labels_by_picture_and_zone(population: Population) -> None:
    assert population.label("12.png", "forehead") == pytest.approx(12.5 / PEOPLE, abs=1e-4)
    assert np.isnan(population.label("03.png", "forehead"))
    assert np.isnan(population.label("unknown.png", "forehead"))


def test_pictures_used_in_training_are_never_measured(population: Population, tmp_path: Path) -> None:
    portraits = held_out_portraits(faces(tmp_path), population, None)
    assert [portrait.file for portrait in portraits] == [f"{p:02d}.png" for p in range(PEOPLE - 6, PEOPLE)]


def test_a_few_faces_still_cover_young_and_old(population: Population, tmp_path: Path) -> None:
    ages = [portrait.age for portrait in held_out_portraits(faces(tmp_path), population, 3)]
    assert ages == [56.0, 60.0, 66.0] or ages == [56.0, 62.0, 66.0]


def test_younger_faces_can_be_left_out(population: Population, tmp_path: Path) -> None:
    portraits = held_out_portraits(faces(tmp_path), population, None, min_age=61)
    assert [portrait.age for portrait in portraits] == [62.0, 64.0, 66.0]


def test_ages_may_be_unknown(population: Population, tmp_path: Path) -> None:
    portraits = held_out_portraits(faces(tmp_path, ages=False), population, 4)
    assert len({portrait.file for portrait in portraits}) == 4


def test_a_folder_of_other_pictures_is_held_out_as_a_whole(population: Population, tmp_path: Path) -> None:
    for name in ("a.jpg", "sub/b.PNG", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    portraits = held_out_portraits(tmp_path, population, None)
    assert sorted(portrait.file for portrait in portraits) == ["a.jpg", "sub/b.PNG"]


def test_a_folder_without_held_out_faces_is_named(population: Population, tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("file,age\n00.png,20\n")
    with pytest.raises(UsageError, match="used in training"):
        held_out_portraits(tmp_path, population, None)
    with pytest.raises(UsageError, match="not a folder"):
        held_out_portraits(tmp_path / "nowhere", population, None)


def test_real_sets_are_disjoint_and_near_the_wanted_scores(population: Population) -> None:
    random = np.random.default_rng(0)
    excluded = frozenset({"20.png", "03.png"})
    first, second = population.like_scores("under_eye", [0.8] * 4, 2, random, excluded)
    assert len(first) == len(second) == 4
    assert not set(first) & set(second)
    for row in [*first, *second]:
        assert population.kind[row] == "under_eye"
        assert str(population.file[row]) not in excluded
        assert abs(population.score[row] - 0.8) < 0.15


def test_real_sets_are_cut_short_where_crops_run_out(population: Population) -> None:
    sets = population.like_scores("forehead", [0.5] * 100, 2, np.random.default_rng(0))
    assert [len(rows) for rows in sets] == [(PEOPLE - 1) // 2] * 2


def test_more_wrinkled_crops_have_a_higher_index(population: Population) -> None:
    assert population.wrinkle_spread("forehead", np.random.default_rng(0)) > 1


@pytest.mark.parametrize("missing", ["crops.npy", "index.csv", "wrinkle-index.json"])
def test_a_folder_without_prepared_zones_is_named(zones_folder: Path, tmp_path: Path, missing: str) -> None:
    for path in zones_folder.iterdir():
        if path.name != missing:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(UsageError, match="prepare-zones"):
        Population.open(tmp_path)
