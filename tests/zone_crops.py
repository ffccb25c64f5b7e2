"""A prepared folder of zone crops, as ``python -m training prepare-zones`` writes it, of coloured blocks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from agesdk.faces.zones import ZONE_KINDS, ZONES

_COLUMNS = (
    *("file", "zone", "kind", "side", "score", "age", "source"),
    *("ancestry", "split", "lightness", "wrinkle_index", "skin"),
)


def save(folder: Path) -> Path:
    """Two faces' worth of crops for training, one each for validation and test; one crop without a score."""
    rng = np.random.default_rng(0)
    rows = [
        (f"face{n}.jpg", zone, split)
        for n, split in enumerate(("train", "train", "val", "test"))
        for zone in ZONES
    ]
    base = rng.integers(60, 200, (len(rows), 20, 20, 3), dtype=np.uint8)
    np.save(folder / "crops.npy", base.repeat(8, axis=1).repeat(8, axis=2))
    masks = np.zeros((len(rows), 160, 160), np.uint8)
    masks[:, 30:130, 40:120] = 255
    np.save(folder / "masks.npy", masks)
    with open(folder / "index.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for n, (name, zone, split) in enumerate(rows):
            score = "nan" if n == 3 else f"{(n % 10) / 10:.5f}"
            writer.writerow(
                (name, zone.name, zone.kind, zone.side, score, 40, "x", "Peru", split, 40 + n, "0.1", "0.5")
            )
    index = {"weights": [1.0] * 12, "mean": 0.0, "deviation": 1.0, "spearman_with_age": 0.5}
    indices = {kind: {"kind": kind, **index} for kind in ZONE_KINDS}
    (folder / "wrinkle-index.json").write_text(json.dumps(indices), encoding="utf-8")
    return folder
