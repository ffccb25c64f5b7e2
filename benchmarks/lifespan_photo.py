"""``python -m benchmarks lifespan-photo FACES_DIR``: the square that is aged, in its photograph.

Alignment: where the eyes lie in the square, in the middle of the picture as published and aligned to the
face. The blend is measured, not a model: the aged square is a stand-in that has what an aged square has,
stronger lines, paler hair and skin, the autoencoder's loss of fine detail, and a drift of its colours.
Compared with a plain paste, the stand-in's own pixels inside the same outline: the step that the mask's edge
puts between neighbouring pixels, and the tint along that edge.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import cv2
import numpy as np

from agesdk.errors import FaceError, UsageError
from agesdk.faces.align import aligned, ffhq_transform, five_points, inverse
from agesdk.faces.analyzer import FaceAnalyzer, select_face
from agesdk.faces.frames import to_image
from agesdk.faces.paste import matched_change
from agesdk.imaging import read_image, write_image
from agesdk.lifespan_blend import blend, face_mask
from agesdk.resample import centred_transform

SIDE = 512
DRIFT = (9.0, 3.0, -5.0)
"""Levels by which the stand-in's red, green and blue are off everywhere."""


@dataclass(frozen=True)
class Seam:
    """Of one picture, in grey levels: of a plain paste, and of the blend.

    Steps are the 99th percentile of what the mask's edge alone puts between neighbours; tints the mean colour
    change along the edge (largest channel); ``outside`` the share of the photograph's pixels that changed
    where the mask is 0, which should be none.
    """

    plain_step: float
    step: float
    plain_tint: float
    tint: float
    outside: float


@dataclass(frozen=True)
class Eyes:
    """In a square: the distance of the eyes, and the place of their middle, as shares of its side; their tilt
    in degrees."""

    distance: float
    tilt: float
    x: float
    y: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lifespan-photo``."""
    parser.add_argument("faces", type=Path, metavar="FACES_DIR", help="folder with pictures of faces")
    parser.add_argument("--faces", dest="count", type=int, default=40, metavar="N", help="(default 40)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write photograph, paste and blend")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    paths = [path for path in sorted(arguments.faces.rglob("*")) if path.suffix in (".jpg", ".png", ".webp")]
    if not paths:
        raise UsageError(f"{arguments.faces} holds no pictures")
    analyzer = FaceAnalyzer.load(threads=1)
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(arguments.count, len(paths))).astype(int)]
    seams: list[Seam] = []
    middle: list[Eyes] = []
    level: list[Eyes] = []
    for path in chosen:
        picture = read_image(path)
        try:
            landmarks = select_face(analyzer.detect(picture), None).landmarks
        except FaceError as error:
            print(f"{path.name}: {error}")
            continue
        transform = ffhq_transform(landmarks, SIDE)
        middle.append(eyes(landmarks, centred_transform(picture.shape[:2], SIDE)))
        level.append(eyes(landmarks, transform))
        square = aligned(picture, transform, SIDE)
        made = stand_in(square)
        blended = blend(picture, square, made, transform, landmarks)
        mask = face_mask(to_image(inverse(transform), landmarks[:, :2].astype(np.float64)), SIDE)
        seams.append(seam(picture, blended, square, made, mask, transform))
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            sheet = np.hstack([picture, plain_paste(picture, made, mask, transform), blended])
            write_image(arguments.out / f"{path.stem}.png", sheet)
    print(eye_table({"middle of the picture": middle, "aligned": level}), end="\n\n")
    print(seam_table(seams))
    return 0


def eyes(landmarks: np.ndarray, transform: np.ndarray) -> Eyes:
    """Where a face's eyes lie in a square of `SIDE` pixels (``transform`` leads from it to the picture)."""
    left, right = to_image(inverse(transform), five_points(landmarks)[:2].astype(np.float64))
    across = right - left
    place = (left + right) / 2 / SIDE
    return Eyes(
        float(np.linalg.norm(across)) / SIDE,
        math.degrees(math.atan2(across[1], across[0])),
        float(place[0]),
        float(place[1]),
    )


def stand_in(square: np.ndarray) -> np.ndarray:
    """Something like the square's face at a high age, uint8 [S, S, 3]; see the module."""
    smooth = cv2.GaussianBlur(square, (0, 0), 1.2).astype(np.float32)
    lines = smooth - cv2.GaussianBlur(smooth, (0, 0), 4.0)
    grey = smooth.mean(axis=2, keepdims=True)
    paler = 0.75 * smooth + 0.25 * grey + 2.0 * lines + 0.06 * (255.0 - smooth)
    return np.clip(np.rint(paler + np.array(DRIFT, np.float32)), 0.0, 255.0).astype(np.uint8)


def seam(
    picture: np.ndarray,
    blended: np.ndarray,
    square: np.ndarray,
    aged: np.ndarray,
    mask: np.ndarray,
    transform: np.ndarray,
) -> Seam:
    """Measure one picture; arguments as of `agesdk.lifespan_blend.blend`, its result and its mask."""
    difference = aged.astype(np.float32) - square
    matched = matched_change(aged, square, mask)
    edge, plain_edge = _slope(mask), _slope(_outline(mask))
    rim = (mask > 0.02) & (mask < 0.98)
    height, width = picture.shape[:2]
    there = cv2.warpAffine(mask, transform, (width, height), flags=cv2.INTER_LINEAR)
    changed = (blended != picture).any(axis=2)
    return Seam(
        _step(difference, plain_edge),
        _step(matched, edge),
        float(np.abs(difference[plain_edge > 0].mean(axis=0)).max()),
        float(np.abs((mask[..., None] * matched)[rim].mean(axis=0)).max()),
        float((changed & (there == 0)).mean()),
    )


def plain_paste(picture: np.ndarray, aged: np.ndarray, mask: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """The aged square's pixels inside the mask's outline, in a copy of the photograph."""
    height, width = picture.shape[:2]
    placed = cv2.warpAffine(aged, transform, (width, height), flags=cv2.INTER_CUBIC)
    inside = cv2.warpAffine(_outline(mask), transform, (width, height), flags=cv2.INTER_NEAREST) > 0.5
    return np.where(inside[..., None], placed, picture)


def eye_table(found: Mapping[str, Sequence[Eyes]]) -> str:
    """Mean and standard deviation over pictures, as Markdown."""
    lines = ["| square | eyes apart, % | tilt, degrees | across, % | down, % |", "|" + "---|" * 5]
    for name, rows in found.items():
        numbers = np.array([astuple(row) for row in rows]) * (100, 1, 100, 100)
        cells = [f"{m:.1f} ± {d:.1f}" for m, d in zip(numbers.mean(axis=0), numbers.std(axis=0))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def seam_table(seams: Sequence[Seam]) -> str:
    """Mean and worst picture, as Markdown."""
    numbers = np.array([astuple(one) for one in seams])
    lines = [
        "| | step, paste | step, blend | tint, paste | tint, blend | changed outside |",
        "|" + "---|" * 6,
    ]
    for name, row in (("mean", numbers.mean(axis=0)), ("worst", numbers.max(axis=0))):
        cells = " | ".join(f"{value:.2f}" for value in row)
        lines.append(f"| {name} of {len(seams)} | {cells} |")
    return "\n".join(lines)


def _outline(mask: np.ndarray) -> np.ndarray:
    """The mask without its soft rim."""
    return (mask > 0.5).astype(np.float32)


def _slope(mask: np.ndarray) -> np.ndarray:
    """How much a mask changes to the next pixel, right or below."""
    across, down = np.zeros_like(mask), np.zeros_like(mask)
    across[:, 1:], down[1:] = np.diff(mask, axis=1), np.diff(mask, axis=0)
    return np.maximum(np.abs(across), np.abs(down))


def _step(change: np.ndarray, edge: np.ndarray) -> float:
    steps = np.abs(change).max(axis=2) * edge
    return float(np.percentile(steps[edge > 0], 99))
