"""Prepared zone crops (``python -m training prepare-zones``): reading their table and pixels."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agesdk.errors import UsageError
from agesdk.faces.zones import CROP_SIZE, ZONE_KINDS

_FIX = "Make the folder: python -m training prepare-zones FACES_DIR OUT"


@dataclass(frozen=True)
class CropTable:
    """Columns of ``index.csv``, one entry a crop; the file may lack those with a default.

    Attributes
    ----------
    file, split, zone, side, ancestry:
        str [N]; the last three "" where unknown.
    kind:
        str [N], one of `agesdk.faces.zones.ZONE_KINDS`.
    score:
        float64 [N] in 0..1; NaN where the crop shows too little skin to be scored.
    lightness, wrinkle_index:
        float64 [N], CIELAB L of the face's skin, and the index in standard deviations; NaN where unknown.
    """

    file: NDArray[np.str_]
    kind: NDArray[np.str_]
    score: NDArray[np.float64]
    split: NDArray[np.str_]
    zone: NDArray[np.str_]
    side: NDArray[np.str_]
    ancestry: NDArray[np.str_]
    lightness: NDArray[np.float64]
    wrinkle_index: NDArray[np.float64]

    @classmethod
    def read(cls, folder: Path) -> CropTable:
        """Read a prepared folder's table; `UsageError` says what is missing or wrong."""
        try:
            with open(folder / "index.csv", newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            table = cls(
                file=np.array([row["file"] for row in rows], np.str_),
                kind=_kinds(rows, folder),
                score=np.array([float(row["score"] or "nan") for row in rows]),
                split=np.array([row["split"] for row in rows], np.str_),
                zone=_text(rows, "zone"),
                side=_text(rows, "side"),
                ancestry=_text(rows, "ancestry"),
                lightness=_numbers(rows, "lightness"),
                wrinkle_index=_numbers(rows, "wrinkle_index"),
            )
        except (OSError, KeyError, ValueError) as error:
            raise UsageError(f"{folder} does not hold prepared zone crops", repr(error), _FIX) from error
        if np.any((table.score < 0) | (table.score > 1)):
            raise UsageError(f"{folder}/index.csv holds scores outside 0..1", fix=_FIX)
        return table

    def __len__(self) -> int:
        return len(self.file)

    @property
    def kind_index(self) -> NDArray[np.int64]:
        """int64 [N], index into `agesdk.faces.zones.ZONE_KINDS`."""
        return np.array([ZONE_KINDS.index(kind) for kind in self.kind.tolist()], np.int64)


def open_pixels(folder: Path, name: Literal["crops", "masks"], count: int) -> NDArray[np.uint8]:
    """``crops.npy`` uint8 [N, S, S, 3] RGB or ``masks.npy`` uint8 [N, S, S] (share of bare skin × 255),
    S ≥ 128, memory-mapped; `UsageError` where it does not hold ``count`` of them.
    """
    try:
        pixels: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} does not hold prepared zone crops", repr(error), _FIX) from error
    channels = (3,) if name == "crops" else ()
    side = pixels.shape[1] if pixels.ndim > 1 else 0
    if pixels.shape != (count, side, side, *channels) or side < CROP_SIZE or pixels.dtype != np.uint8:
        raise UsageError(
            f"{folder} is inconsistent",
            f"{name}.npy is {pixels.dtype} {list(pixels.shape)}, index.csv has {count} rows",
            _FIX,
        )
    return pixels


def centre(pixels: NDArray[np.uint8], size: int = CROP_SIZE) -> NDArray[np.uint8]:
    """The middle ``size``² of stored crops [N, S, S, 3] or masks [N, S, S], contiguous."""
    margin = (pixels.shape[1] - size) // 2
    return np.ascontiguousarray(pixels[:, margin : margin + size, margin : margin + size])


def _kinds(rows: list[dict[str, str]], folder: Path) -> NDArray[np.str_]:
    unknown = sorted({row["kind"] for row in rows} - set(ZONE_KINDS))
    if unknown:
        raise UsageError(f"{folder}/index.csv names the zone kind '{unknown[0]}'", fix=_FIX)
    return np.array([row["kind"] for row in rows], np.str_)


def _text(rows: list[dict[str, str]], column: str) -> NDArray[np.str_]:
    return np.array([row.get(column) or "" for row in rows], np.str_)


def _numbers(rows: list[dict[str, str]], column: str) -> NDArray[np.float64]:
    return np.array([float(row.get(column) or "nan") for row in rows])
