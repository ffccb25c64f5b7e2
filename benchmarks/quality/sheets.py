"""Contact sheets: what no index can judge has to be looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agesdk.drawing import FaceView, labelled_panels
from agesdk.imaging import write_image
from benchmarks.quality.measure import Pictures
from benchmarks.quality.records import FaceRecord

FACES_PER_SHEET = 6
PANEL_SIDE = 420
MARGIN = 0.2
COLUMNS: tuple[float | None, ...] = (0.05, None, 0.5, 0.95)
"""Targets from left to right; None is the source."""


class ContactSheets:
    """Collects faces and writes ``sheet-NN.png``, a face a row; a sheet is written as soon as it is full.

    Parameters
    ----------
    folder:
        Where to.
    full_size:
        Also write ``faces/NAME.png`` for each face, with the pictures' own pixels.
    """

    def __init__(self, folder: Path, full_size: bool = False) -> None:
        self.written: list[Path] = []
        self._folder, self._full_size = folder, full_size
        self._panels: list[tuple[str, NDArray[np.uint8]]] = []

    def add(self, face: FaceRecord, pictures: Pictures) -> None:
        """Add a face."""
        self._panels += _row(face, pictures, PANEL_SIDE)
        if len(self._panels) == FACES_PER_SHEET * len(COLUMNS):
            self.finish()
        if self._full_size:
            name = face.file.replace("/", "-").rsplit(".", 1)[0]
            (self._folder / "faces").mkdir(exist_ok=True)
            self._write(self._folder / "faces" / f"{name}.png", _row(face, pictures))

    def finish(self) -> None:
        """Write the last sheet, if any face is waiting."""
        if self._panels:
            number = 1 + sum(path.name.startswith("sheet-") for path in self.written)
            self._write(self._folder / f"sheet-{number:02d}.png", self._panels)
            self._panels = []

    def _write(self, path: Path, panels: list[tuple[str, NDArray[np.uint8]]]) -> None:
        write_image(path, labelled_panels(panels, len(COLUMNS)))
        self.written.append(path)


def _row(
    face: FaceRecord, pictures: Pictures, side: int | None = None
) -> list[tuple[str, NDArray[np.uint8]]]:
    """Labelled panels of one face, `side` pixels wide; None keeps the picture's own pixels."""
    view = FaceView.around(pictures.by_target[None], pictures.bbox, side or 1, MARGIN)
    view = view if side else replace(view, size=view.side)
    name = face.file.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    source = f"{name[-24:]} ({face.group})"
    return [
        (source if target is None else f"target {target:g}", view.show(pictures.by_target[target]))
        for target in COLUMNS
    ]
