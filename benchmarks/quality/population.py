"""The real faces that results are measured against, and which of them no training saw."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agesdk.errors import UsageError
from training.crop_table import CropTable, centre, open_pixels
from training.scores import WrinkleIndex, load_indices, ridge_features

HELD_OUT = "test"


@dataclass(frozen=True)
class Portrait:
    """A held-out picture. `age` in years and `source` as the folder's ``index.csv`` gives them, or NaN and
    ``""``."""

    file: str
    path: Path
    age: float
    source: str


@dataclass(frozen=True)
class Population:
    """Prepared zone crops (``python -m training prepare-zones``) as a population of real faces.

    Parameters
    ----------
    folder:
        Holds the files.
    crops, masks:
        uint8 [N, S, S, 3] and [N, S, S], memory-mapped; the middle 128 pixels are the crop.
    file, kind, zone, split:
        str [N].
    score:
        float64 [N] in 0..1, NaN where the crop shows too little skin.
    indices:
        Wrinkle index by kind of zone, in units of the population's standard deviation.
    """

    folder: Path
    crops: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    file: NDArray[np.str_]
    zone: NDArray[np.str_]
    kind: NDArray[np.str_]
    split: NDArray[np.str_]
    score: NDArray[np.float64]
    indices: dict[str, WrinkleIndex]

    @classmethod
    def open(cls, folder: Path) -> Population:
        """Open a prepared folder; UsageError when it is not one."""
        table = CropTable.read(folder)
        indices = load_indices(folder / "wrinkle-index.json")
        without = sorted({str(kind) for kind in table.kind} - indices.keys())
        if without:
            raise UsageError(
                f"{folder} has no wrinkle index of {', '.join(without)}",
                "where ages are not known none is fitted",
                "Make the folder from portraits with ages",
            )
        return cls(
            folder=folder,
            crops=open_pixels(folder, "crops", len(table)),
            masks=open_pixels(folder, "masks", len(table)),
            file=table.file,
            zone=table.zone,
            kind=table.kind,
            split=table.split,
            score=table.score,
            indices=indices,
        )

    def label(self, file: str, zone: str) -> float:
        """The score of a zone of a picture; NaN when it has none."""
        rows = np.flatnonzero((self.file == file) & (self.zone == zone))
        return float(self.score[rows[0]]) if len(rows) else float("nan")

    def crop(self, row: int) -> NDArray[np.uint8]:
        """The middle 128², uint8 [128, 128, 3]."""
        return centre(self.crops[row : row + 1])[0]

    def mask(self, row: int) -> NDArray[np.float32]:
        """Skin share of :meth:`crop`, float32 [128, 128] in 0..1."""
        return np.asarray(centre(self.masks[row : row + 1])[0] / np.float32(255), np.float32)

    def like_scores(
        self,
        kind: str,
        scores: Sequence[float],
        sets: int,
        random: np.random.Generator,
        exclude: frozenset[str] = frozenset(),
    ) -> list[list[int]]:
        """Disjoint sets of rows of real crops of one kind: one row per wanted score in each set, with a near
        score.

        Parameters
        ----------
        scores:
            Wanted scores, one per crop to be compared with.
        sets:
            How many sets.
        exclude:
            Files whose crops are left out.

        Returns
        -------
        list
            Of `sets` lists as long as `scores`, or shorter where real crops run out.
        """
        allowed = (self.kind == kind) & np.isfinite(self.score) & ~np.isin(self.file, sorted(exclude))
        free = np.flatnonzero(allowed)
        chosen: list[list[int]] = [[] for _ in range(sets)]
        for wanted in random.permutation(np.asarray(scores, np.float64)):
            if len(free) < sets:
                break
            nearest = np.argsort(np.abs(self.score[free] - wanted), kind="stable")[:sets]
            for rows, position in zip(chosen, random.permutation(nearest)):
                rows.append(int(free[position]))
            free = np.delete(free, nearest)
        return chosen

    def wrinkle_spread(self, kind: str, random: np.random.Generator, count: int = 300) -> float:
        """Mean wrinkle index of the top tenth of real crops by score, minus that of the bottom tenth."""
        rows = np.flatnonzero((self.kind == kind) & np.isfinite(self.score))
        rows = rows[np.argsort(self.score[rows])]
        tenth = max(1, len(rows) // 10)
        means = []
        for part in (rows[:tenth], rows[-tenth:]):
            sample = random.choice(part, min(len(part), count // 2), replace=False)
            features = np.array([ridge_features(self.crop(row), self.mask(row)) for row in sample])
            means.append(float(self.indices[kind].of_features(features).mean()))
        return means[1] - means[0]


def held_out_portraits(
    faces: Path, population: Population, count: int | None, seed: int = 0, min_age: float = 0.0
) -> list[Portrait]:
    """Pictures of a folder that no training saw, spread over ages.

    A picture is held out when the population lists it in the test split, or does not list it at all. They are
    taken at even steps of age (pictures of unknown age are spread among them), so few of them still cover
    young and old.

    Parameters
    ----------
    faces:
        With ``index.csv`` (columns ``file`` and optionally ``age``, ``source``), or just pictures.
    count:
        At most this many; None takes all.
    min_age:
        Pictures of younger people are left out; those of unknown age are kept.

    Raises
    ------
    UsageError
        There is no such picture.
    """
    portraits = _portraits(faces)
    seen = set(population.file[population.split != HELD_OUT].tolist())
    fresh = [p for p in portraits if p.file not in seen and not p.age < min_age]
    if not fresh:
        why = (
            "all of its pictures were used in training or show younger faces"
            if portraits
            else "it holds no pictures"
        )
        raise UsageError(f"{faces} has no held-out faces", why, "Give a folder with others")
    if count is None or count >= len(fresh):
        return fresh
    random = np.random.default_rng(seed)
    known = [portrait.age for portrait in fresh if np.isfinite(portrait.age)] or [0.0]
    keys = [portrait.age if np.isfinite(portrait.age) else float(random.choice(known)) for portrait in fresh]
    order = np.lexsort((random.random(len(fresh)), np.array(keys)))
    return [fresh[order[int(position)]] for position in np.linspace(0, len(fresh) - 1, count).round()]


def _portraits(faces: Path) -> list[Portrait]:
    if not faces.is_dir():
        raise UsageError(f"{faces} is not a folder", fix="Give the folder of the pictures")
    index = faces / "index.csv"
    if not index.is_file():
        found = sorted(p for p in faces.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
        return [Portrait(path.relative_to(faces).as_posix(), path, float("nan"), "") for path in found]
    try:
        with open(index, newline="", encoding="utf-8") as file:
            return [
                Portrait(
                    row["file"], faces / row["file"], float(row.get("age") or "nan"), row.get("source") or ""
                )
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(f"{index} can not be read", str(error), "It needs a column 'file'") from error
