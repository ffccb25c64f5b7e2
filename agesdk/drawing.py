"""Pictures about pictures: zones drawn over a face, and labelled panels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from agesdk.faces.zones import ZONES, Zone, crop_transform

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK = (24, 24, 28)
_PAPER = (250, 250, 248)
_SKIPPED = (150, 150, 150)
_SMOOTH, _MIDDLE, _WRINKLED = (38, 166, 154), (255, 193, 7), (216, 67, 21)


def draw_zones(image: np.ndarray, landmarks: np.ndarray, scores: Mapping[str, float | None]) -> np.ndarray:
    """A copy of the picture with the outline of every named zone and its score in percent.

    Parameters
    ----------
    image:
        uint8 ``[H, W, 3]`` RGB.
    landmarks:
        float ``[468, 2 or 3]``, pixels of ``image``.
    scores:
        Score in 0..1 by zone name; None marks a zone that was skipped. Zones not named are not drawn.
    """
    canvas = image.copy()
    outlines = [
        (zone, zone_outline(landmarks, zone), scores[zone.name]) for zone in ZONES if zone.name in scores
    ]
    side = float(np.median([np.ptp(outline[:, 0]) for _, outline, _ in outlines])) if outlines else 0.0
    line = max(1, round(side / 70))
    for _, outline, score in outlines:
        points = [np.round(outline).astype(np.int32)]
        cv2.polylines(canvas, points, True, _score_colour(score), line, cv2.LINE_AA)
    for _, outline, score in outlines:
        text = "-" if score is None else f"{100 * score:.0f}"
        _tag(canvas, text, outline.mean(0), max(0.35, side / 190), _score_colour(score))
    return canvas


def zone_outline(landmarks: np.ndarray, zone: Zone) -> np.ndarray:
    """The polygon in which the zone may change, float64 ``[n, 2]`` in image pixels."""
    size = 128
    transform = crop_transform(landmarks, zone, size)
    corners = np.array(zone.feather, np.float64) * size - 0.5
    return np.asarray(corners @ transform[:, :2].T + transform[:, 2])


@dataclass(frozen=True)
class FaceView:
    """A square window on a picture around a face, shown with ``size`` pixels a side."""

    left: int
    top: int
    side: int
    size: int

    @classmethod
    def around(
        cls, image: np.ndarray, bbox: tuple[float, float, float, float], size: int, margin: float = 0.22
    ) -> FaceView:
        """The window around a box, wider by ``margin`` on each side, moved inside the picture."""
        x0, y0, x1, y1 = bbox
        height, width = image.shape[:2]
        side = max(1, min(round(max(x1 - x0, y1 - y0) * (1 + 2 * margin)), height, width))
        left = min(max(round((x0 + x1 - side) / 2), 0), width - side)
        top = min(max(round((y0 + y1 - side) / 2), 0), height - side)
        return cls(left, top, side, size)

    def show(self, image: np.ndarray) -> np.ndarray:
        """The window, uint8 ``[size, size, 3]``."""
        window = image[self.top : self.top + self.side, self.left : self.left + self.side]
        method = cv2.INTER_AREA if self.size < self.side else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(window, (self.size, self.size), interpolation=method))

    def points(self, points: np.ndarray) -> np.ndarray:
        """Image points ``[n, 2 or more]`` in pixels of the window, float64 ``[n, 2]``."""
        corner = np.array([self.left, self.top]) - 0.5
        return (np.asarray(points, np.float64)[:, :2] - corner) * (self.size / self.side) - 0.5


def labelled_panels(panels: Sequence[tuple[str, np.ndarray]], columns: int = 4) -> np.ndarray:
    """Panels of one height in rows, each under its label (ASCII), uint8 ``[H, W, 3]`` RGB."""
    height = panels[0][1].shape[0]
    gap, band = max(6, height // 40), max(24, height // 12)
    cells = []
    for label, image in panels:
        cell = np.full((height + band, image.shape[1], 3), _PAPER, np.uint8)
        cell[band:] = image
        baseline = (2, round(band * 0.68))
        cv2.putText(cell, label, baseline, _FONT, band / 44, _INK, max(1, band // 24), cv2.LINE_AA)
        cells.append(cell)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    widths = [sum(cell.shape[1] for cell in row) + gap * (len(row) + 1) for row in rows]
    sheet = np.full((gap + len(rows) * (height + band + gap), max(widths), 3), _PAPER, np.uint8)
    for index, row in enumerate(rows):
        top, left = gap + index * (height + band + gap), gap
        for cell in row:
            sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
            left += cell.shape[1] + gap
    return sheet


def _score_colour(score: float | None) -> tuple[int, int, int]:
    if score is None:
        return _SKIPPED
    low, high, share = (_SMOOTH, _MIDDLE, score * 2) if score < 0.5 else (_MIDDLE, _WRINKLED, score * 2 - 1)
    mixed = np.array(low) + (np.array(high) - np.array(low)) * min(max(share, 0.0), 1.0)
    red, green, blue = (int(value) for value in mixed)
    return red, green, blue


def _tag(
    canvas: np.ndarray, text: str, centre: np.ndarray, scale: float, colour: tuple[int, int, int]
) -> None:
    """Dark text on a filled box of the colour, centred."""
    thickness = max(1, round(scale * 1.5))
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    x, y = (int(value) for value in np.round(centre))
    pad = max(2, round(height * 0.35))
    box = (x - width // 2 - pad, y - height // 2 - pad), (x + width // 2 + pad, y + height // 2 + pad)
    cv2.rectangle(canvas, *box, colour, cv2.FILLED)
    cv2.putText(canvas, text, (x - width // 2, y + height // 2), _FONT, scale, _INK, thickness, cv2.LINE_AA)
