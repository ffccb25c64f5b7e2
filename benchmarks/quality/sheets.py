"""Contact sheets: what no index can judge has to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agesdk.drawing import FaceView, labelled_panels
from agesdk.imaging import write_image
from benchmarks.quality.measure import FaceMeasurement

FACES_PER_SHEET = 6
PANEL_SIDE = 420
MARGIN = 0.2
COLUMNS: tuple[float | None, ...] = (0.05, None, 0.5, 0.95)
"""Targets from left to right; None is the source."""


def write_sheets(
    measurements: Sequence[FaceMeasurement], folder: Path, full_size: bool = False
) -> list[Path]:
    """Write ``sheet-NN.png`` (a face a row) and, if `full_size`, ``faces/NAME.png`` (one face, nothing
    scaled).

    Returns
    -------
    list
        The files written.
    """
    written = []
    for start in range(0, len(measurements), FACES_PER_SHEET):
        shown = measurements[start : start + FACES_PER_SHEET]
        panels = [panel for measurement in shown for panel in _row(measurement, PANEL_SIDE)]
        path = folder / f"sheet-{start // FACES_PER_SHEET + 1:02d}.png"
        write_image(path, labelled_panels(panels, len(COLUMNS)))
        written.append(path)
    if full_size:
        for measurement in measurements:
            name = measurement.face.file.replace("/", "-").rsplit(".", 1)[0]
            path = folder / "faces" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, labelled_panels(_row(measurement), len(COLUMNS)))
            written.append(path)
    return written


def _row(measurement: FaceMeasurement, side: int | None = None) -> list[tuple[str, NDArray[np.uint8]]]:
    """Labelled panels of one face, `side` pixels wide; None keeps the picture's own pixels."""
    view = FaceView.around(measurement.pictures[None], measurement.bbox, side or 1, MARGIN)
    view = view if side else replace(view, size=view.side)
    name = measurement.face.file.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    source = f"{name[-24:]} ({measurement.face.group})"
    return [
        (source if target is None else f"target {target:g}", view.show(measurement.pictures[target]))
        for target in COLUMNS
    ]
