"""Reading the aging score of edited skin.

ScoreNet has learned scores from photographs. Skin that was smoothed is none: on held-out faces it reads 0.5
where the wrinkle index, of which the scores are made, and a network of another architecture read 0.2. So
what an edit reached is read by the index, and by ScoreNet only where the scores are not made of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agesdk.errors import UsageError
from agesdk.faces.zones import CROP_SIZE, ZONES
from agesdk.zone_model import ZoneModel
from agesdk.zone_prepared import ZoneCrop
from training.calibrate import isotonic
from training.crop_table import CropTable, open_pixels
from training.scores import WrinkleIndex, load_indices

from .calibration import scores_of

ScoreReader = Callable[[str, NDArray[np.uint8], NDArray[np.float32]], float]
"""Kind of zone, crop uint8 [128, 128, 3] and its skin mask float32 [128, 128] in 0..1, to a score in 0..1."""

_CROPS = 400
_BINS = 20


@dataclass(frozen=True)
class _Curve:
    index: WrinkleIndex
    values: NDArray[np.float64]
    scores: NDArray[np.float64]


def index_reader(folder: Path) -> ScoreReader:
    """A reader fitted on the training crops of a prepared folder: per kind of zone the mean score of crops
    with a wrinkle index, made monotone.

    Raises
    ------
    UsageError
        The folder holds no prepared crops or no wrinkle index.
    """
    table = CropTable.read(folder)
    try:
        indices = load_indices(folder / "wrinkle-index.json")
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"{folder} has no usable wrinkle-index.json", str(error), "Make the folder with prepare-zones"
        ) from error
    pixels, masks = (open_pixels(folder, name, len(table)) for name in ("crops", "masks"))
    margin = (pixels.shape[1] - CROP_SIZE) // 2
    inner = slice(margin, margin + CROP_SIZE)
    random = np.random.default_rng(0)
    curves = {}
    for kind, index in indices.items():
        rows = np.flatnonzero((table.kind == kind) & (table.split == "train") & np.isfinite(table.score))
        if not rows.size:
            continue
        rows = random.permutation(rows)[:_CROPS]
        crops = np.ascontiguousarray(pixels[rows][:, inner, inner])
        skin = masks[rows][:, inner, inner] / np.float32(255.0)
        values = np.array([index(*pair) for pair in zip(crops, skin, strict=True)])
        parts = np.array_split(np.argsort(values), min(_BINS, len(rows)))
        means = isotonic(np.array([table.score[rows[part]].mean() for part in parts]))
        middles = np.array([values[part].mean() for part in parts])
        curves[kind] = _Curve(
            index,
            np.array([values.min() - 1e-6, *middles, values.max() + 1e-6]),
            np.array([0.0, *means, 1.0]),
        )

    def read(kind: str, crop: NDArray[np.uint8], skin: NDArray[np.float32]) -> float:
        if kind not in curves:
            raise UsageError(
                f"{folder} has no wrinkle index of {kind}",
                "where ages are not known none is fitted",
                "Prepare it from portraits with ages, or give --reader score-net",
            )
        curve = curves[kind]
        return float(np.interp(curve.index(crop, skin), curve.values, curve.scores))

    return read


def score_net_reader(model: ZoneModel) -> ScoreReader:
    """A reader by the bundle's own ScoreNet."""
    zone_of_kind = {zone.kind: zone for zone in reversed(ZONES)}

    def read(kind: str, crop: NDArray[np.uint8], skin: NDArray[np.float32]) -> float:
        return scores_of(model, [ZoneCrop(zone_of_kind[kind], np.eye(2, 3), crop, skin)])[0]

    return read
