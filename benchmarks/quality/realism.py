"""How far results are from real faces of like scores, as a Fréchet distance, beside two halves of the real
set.

Two views, both on dlib's face recognition network: zone crops by the mean of an inner block (texture and tone
of skin), and whole faces by the mean of the last block, from which the identity embedding is made. Every
distance is between sets of equal size, on the same principal axes of the real set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agesdk.errors import ImageError
from agesdk.faces.zones import ZONE_KINDS
from agesdk.imaging import read_image
from benchmarks.quality.frechet import feature_frechet, principal_axes
from benchmarks.quality.identity import CROP_BLOCK, FACE_BLOCK, IdentityNetwork, identity_chip
from benchmarks.quality.measure import FaceMeasurement
from benchmarks.quality.metrics import mean
from benchmarks.quality.population import Population

MAX_AXES = 64

Features = NDArray[np.float32]


def crop_realism(
    measurements: Sequence[FaceMeasurement], population: Population, network: IdentityNetwork, seed: int = 0
) -> dict[str, Any]:
    """Fréchet distances of zone crops, by target and for the unaltered sources.

    The real set of a target has, for every result crop, a real crop of its zone kind with a score near the
    target; of the sources, near the source's label. Sources show how far other people are when nothing was
    altered.
    """
    random = np.random.default_rng(seed)
    excluded = frozenset(m.face.file for m in measurements)
    sets: dict[str, tuple[Features, Features, Features]] = {}
    for target in measurements[0].face_features if measurements else ():
        results: list[Features] = []
        halves: list[list[int]] = [[], []]
        for kind in ZONE_KINDS:
            own = [(m, crop) for m in measurements for crop in m.crops if crop.kind == kind]
            wanted = [crop.label if target is None else target for _, crop in own]
            rows = population.like_scores(kind, wanted, 2, random, excluded)
            results += [m.crop_features[crop.zone, target] for m, crop in own[: len(rows[0])]]
            halves[0] += rows[0]
            halves[1] += rows[1]
        if len(results) >= 2:
            crops = ([population.crop(row) for row in half] for half in halves)
            first, second = (network.features(half, CROP_BLOCK) for half in crops)
            sets[_name(target)] = np.stack(results), first, second
    return {"features": f"dlib {CROP_BLOCK}, spatial mean", **_distances(sets)} if sets else {}


def _name(target: float | None) -> str:
    return "source" if target is None else f"{target:g}"


def face_realism(
    measurements: Sequence[FaceMeasurement],
    population: Population,
    faces: Path,
    network: IdentityNetwork,
    seed: int = 0,
) -> dict[str, Any]:
    """Fréchet distances of whole faces; a face's score is the mean over its zones.

    Needs the pictures that the population was made of, in `faces`; empty when they are not there.
    """
    random = np.random.default_rng(seed)
    real = _RealFaces(population, faces, network, {m.face.file for m in measurements})
    sets: dict[str, tuple[Features, Features, Features]] = {}
    count = len(measurements)
    if count < 2 or len(real.files) < 2 * count:
        return {}
    labels = [mean([crop.label for crop in m.crops]) for m in measurements]
    for target in measurements[0].face_features:
        wanted = labels if target is None else [target] * count
        halves = real.like(wanted, random)
        results = np.stack([m.face_features[target] for m in measurements])
        if len(halves[0]) == count:
            sets[_name(target)] = results, np.stack(halves[0]), np.stack(halves[1])
    return {"features": f"dlib {FACE_BLOCK}, spatial mean", **_distances(sets)} if sets else {}


class _RealFaces:
    """Features of real faces, computed when they are asked for."""

    def __init__(
        self, population: Population, faces: Path, network: IdentityNetwork, excluded: set[str]
    ) -> None:
        with np.load(population.folder / "landmarks.npz", allow_pickle=False) as stored:
            self._landmarks = dict(zip(stored["files"].tolist(), stored["landmarks"]))
        self._faces, self._network = faces, network
        self._features: dict[str, Features | None] = {}
        names = [name for name in dict.fromkeys(population.file.tolist()) if name not in excluded]
        scored = {name: mean(population.score[population.file == name].tolist()) for name in names}
        self.files = [name for name in names if np.isfinite(scored[name]) and self._usable(name)]
        self.scores = np.array([scored[name] for name in self.files])

    def _usable(self, file: str) -> bool:
        landmarks = self._landmarks.get(file)
        return landmarks is not None and bool(np.isfinite(landmarks).all()) and (self._faces / file).is_file()

    def like(self, scores: Sequence[float], random: np.random.Generator) -> list[list[Features]]:
        """Two disjoint sets of features of real faces, one per wanted score in each."""
        free = np.arange(len(self.files))
        halves: list[list[Features]] = [[], []]
        for wanted in random.permutation(np.asarray(scores, np.float64)):
            pair: list[Features] = []
            for position in np.argsort(np.abs(self.scores[free] - wanted), kind="stable"):
                features = self._of(self.files[free[position]])
                if features is not None:
                    pair.append(features)
                    free[position] = -1
                if len(pair) == 2:
                    break
            free = free[free >= 0]
            if len(pair) == 2:
                order = random.permutation(2)
                halves[0].append(pair[order[0]])
                halves[1].append(pair[order[1]])
        return halves

    def _of(self, file: str) -> Features | None:
        """None for a picture that can not be read."""
        if file not in self._features:
            try:
                chip = identity_chip(read_image(self._faces / file), self._landmarks[file])
                self._features[file] = self._network.features([chip], FACE_BLOCK)[0]
            except ImageError:
                self._features[file] = None
        return self._features[file]


def _distances(sets: dict[str, tuple[Features, Features, Features]]) -> dict[str, Any]:
    """Distances of results to the real halves (their mean), and between the halves, by set and on average."""
    real = np.concatenate([half for _, *halves in sets.values() for half in halves])
    smallest = min(len(results) for results, *_ in sets.values())
    axes = principal_axes(real, max(1, min(MAX_AXES, smallest // 4, real.shape[1])))
    by_set = {
        name: {
            "samples": len(results),
            "to_real": mean([feature_frechet(results @ axes, half @ axes) for half in (first, second)]),
            "real_halves": feature_frechet(first @ axes, second @ axes),
        }
        for name, (results, first, second) in sets.items()
    }
    aged = [figures for name, figures in by_set.items() if name != _name(None)]
    return {
        "axes": axes.shape[1],
        "to_real": mean([figures["to_real"] for figures in aged]),
        "real_halves": mean([figures["real_halves"] for figures in aged]),
        "by_target": by_set,
    }
