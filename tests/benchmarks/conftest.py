"""A small population of prepared zones, made of synthetic crops."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from agesdk.faces.zones import ZONES

PEOPLE = 24


@pytest.fixture(scope="session")
def zones_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 people × 12 zones of noise whose strength is the score; the last 6 people are the test split."""
    folder = tmp_path_factory.mktemp("population")
    random = np.random.default_rng(0)
    rows, crops = [], []
    for person in range(PEOPLE):
        for zone in ZONES:
            score = (person + 0.5) / PEOPLE
            noise = random.normal(0, 2 + 20 * score, (160, 160, 1))
            crops.append(np.clip(150 + noise + np.zeros(3), 0, 255).astype(np.uint8))
            split = "test" if person >= PEOPLE - 6 else "train"
            known = "nan" if person == 3 else f"{score:.4f}"
            rows.append([f"{person:02d}.png", zone.name, zone.kind, known, split])
    np.save(folder / "crops.npy", np.stack(crops))
    np.save(folder / "masks.npy", np.full((len(crops), 160, 160), 255, np.uint8))
    with open(folder / "index.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "zone", "kind", "score", "split"])
        writer.writerows(rows)
    index = {"weights": [1 / 12] * 12, "mean": -5.0, "deviation": 0.5, "spearman_with_age": 0.5}
    kinds = {zone.kind for zone in ZONES}
    (folder / "wrinkle-index.json").write_text(json.dumps({kind: {"kind": kind, **index} for kind in kinds}))
    landmarks = np.full((PEOPLE, 468, 3), np.nan, np.float32)
    files = np.array([f"{person:02d}.png" for person in range(PEOPLE)])
    np.savez(folder / "landmarks.npz", files=files, landmarks=landmarks)
    return folder
