"""``python -m benchmarks lifespan-blend FACES_DIR BUNDLE``: how well aged faces sit in their photographs.

Compared with a plain paste, the aged square's own pixels inside the same outline: the step that the edge of
the mask puts between neighbouring pixels, and the tint along the edge. Both are properties of the blend, not
of the model: a model that paints more makes both larger.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import cv2
import numpy as np

from agesdk.errors import FaceError, UsageError
from agesdk.faces.align import inverse
from agesdk.faces.frames import to_image
from agesdk.faces.paste import matched_change
from agesdk.imaging import read_image, write_image
from agesdk.lifespan_aging import LifespanAger, LifespanResult
from agesdk.lifespan_blend import face_mask


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``lifespan-blend``."""
    parser.add_argument("faces", type=Path, metavar="FACES_DIR", help="folder with pictures of faces")
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--faces", dest="count", type=int, default=12, metavar="N", help="(default 12)")
    parser.add_argument("--to", type=int, default=70, metavar="N", help="the age wanted (default 70)")
    parser.add_argument("--strength", type=float, default=0.25, help="of the first pass (default 0.25)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write photograph, paste and blend")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    paths = [path for path in sorted(arguments.faces.rglob("*")) if path.suffix in (".jpg", ".png", ".webp")]
    if not paths:
        raise UsageError(f"{arguments.faces} holds no pictures")
    ager = LifespanAger.load(arguments.bundle, threads=arguments.threads, low_memory=True)
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(arguments.count, len(paths))).astype(int)]
    seams = []
    for path in chosen:
        try:
            person = ager.prepare(path, align=True)
        except FaceError as error:
            print(f"{path.name}: {error}")
            continue
        result = ager.age(person, 40, arguments.to, "female", seed=0, strength=arguments.strength)
        blended = ager.blend(result)
        seams.append(seam(result, blended))
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            sheet = np.hstack([read_image(path), _plain_paste(result), blended])
            write_image(arguments.out / f"{path.stem}.png", sheet)
    print(table(seams))
    return 0


def seam(result: LifespanResult, blended: np.ndarray) -> Seam:
    """Measure one picture; ``blended`` is the whole photograph."""
    person = result.person
    mask, outline = _masks(result)
    difference = result.image.astype(np.float32) - person.image
    matched = matched_change(result.image, person.image, mask)
    edge, plain_edge = _slope(mask), _slope(outline)
    rim = (mask > 0.02) & (mask < 0.98)
    height, width = person.picture.shape[:2]
    there = cv2.warpAffine(mask, person.transform, (width, height), flags=cv2.INTER_LINEAR)
    changed = (blended != person.picture).any(axis=2)
    return Seam(
        _step(difference, plain_edge),
        _step(matched, edge),
        float(np.abs(difference[plain_edge > 0].mean(axis=0)).max()),
        float(np.abs(matched[rim].mean(axis=0)).max()),
        float((changed & (there == 0)).mean()),
    )


def table(seams: Sequence[Seam]) -> str:
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


def _masks(result: LifespanResult) -> tuple[np.ndarray, np.ndarray]:
    """The blend's mask, and its outline without a soft rim, float32 [S, S]."""
    person = result.person
    assert person.face is not None
    points = to_image(inverse(person.transform), person.face.landmarks[:, :2].astype(np.float64))
    mask = face_mask(points, len(person.image))
    return mask, (mask > 0.5).astype(np.float32)


def _slope(mask: np.ndarray) -> np.ndarray:
    """How much a mask changes to the next pixel, right or below."""
    across, down = np.zeros_like(mask), np.zeros_like(mask)
    across[:, 1:], down[1:] = np.diff(mask, axis=1), np.diff(mask, axis=0)
    return np.maximum(np.abs(across), np.abs(down))


def _step(change: np.ndarray, edge: np.ndarray) -> float:
    steps = np.abs(change).max(axis=2) * edge
    return float(np.percentile(steps[edge > 0], 99))


def _plain_paste(result: LifespanResult) -> np.ndarray:
    """The aged square's pixels inside the outline, in a copy of the photograph."""
    person = result.person
    height, width = person.picture.shape[:2]
    _, outline = _masks(result)
    placed = cv2.warpAffine(result.image, person.transform, (width, height), flags=cv2.INTER_CUBIC)
    inside = cv2.warpAffine(outline, person.transform, (width, height), flags=cv2.INTER_NEAREST) > 0.5
    return np.where(inside[..., None], placed, person.picture)
