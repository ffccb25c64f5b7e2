"""Reading the aging score of edited skin.

A score is the rank of a crop's wrinkle index and its owner's age, half each (`training.scores`). An edit
changes the first half alone, and ScoreNet, which has learned both from photographs, still sees the second: of
skin above 0.8 that is blurred until no wrinkle is left it reads 0.5. So what an edit reached is read much as
`aging_scores` reads a crop of unknown age, by the rank of its index, and by ScoreNet only where the scores
are a user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from agesdk.errors import UsageError
from agesdk.zone_prepared import ZoneCrop
from training.crop_table import CropTable, centre, open_pixels
from training.scores import load_indices, percentile_rank

ScoreReader = Callable[[Sequence[ZoneCrop]], list[float]]
"""Scores in 0..1 of crops, by their pixels and skin masks."""

_CROPS = 400
"""Of each kind of zone: a rank among so many is good to 0.025 (standard error, at the middle)."""


def index_reader(folder: Path, kinds: Sequence[str], size: int) -> ScoreReader:
    """A reader by the wrinkle index: its percentile rank among training crops of its kind of zone in a
    prepared folder. Its indices are computed here, as those of results are: the table's are corrected for
    the camera.

    Parameters
    ----------
    size:
        Side of the crops to be read, in pixels, at most that of the stored ones.

    Raises
    ------
    UsageError
        The folder holds no prepared crops, or no wrinkle index of one of the kinds.
    """
    table = CropTable.read(folder)
    indices = load_indices(folder / "wrinkle-index.json")
    pixels, masks = (open_pixels(folder, name, len(table)) for name in ("crops", "masks"))
    random = np.random.default_rng(0)
    ranks = {}
    for kind in kinds:
        rows = np.flatnonzero((table.kind == kind) & (table.split == "train") & np.isfinite(table.score))
        if kind not in indices or not rows.size:
            raise UsageError(
                f"{folder} has no {'training crops' if kind in indices else 'wrinkle index'} of {kind}",
                "" if kind in indices else "where ages are not known none is fitted",
                "Prepare it from more portraits, with ages, or give --reader score-net",
            )
        rows = random.permutation(rows)[:_CROPS]
        crops, skin = centre(pixels[rows], size), centre(masks[rows], size) / np.float32(255.0)
        values = np.array([indices[kind](*pair) for pair in zip(crops, skin, strict=True)])
        ranks[kind] = np.sort(values), np.sort(percentile_rank(values))

    def read(crops: Sequence[ZoneCrop]) -> list[float]:
        return [
            float(np.interp(indices[crop.zone.kind](crop.pixels, crop.skin), *ranks[crop.zone.kind]))
            for crop in crops
        ]

    return read
