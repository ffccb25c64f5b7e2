"""``python -m training prepare-zones FACES_DIR OUT``: zone crops, skin masks and aging scores from pictures
with ages.

FACES_DIR holds ``index.csv`` with at least ``file`` and ``age`` (years, may be empty); ``source``,
``ancestry`` and ``native_px`` are used where present. A ``--scores`` CSV (``file,zone,score`` with scores in
0..1) replaces the computed scores by a user's own, for instance from skin-aging atlases; then ages may all be
missing, and the wrinkle index of a kind of zone with them.

OUT gets ``crops.npy`` uint8 [N, 160, 160, 3] RGB (a 128-pixel crop with a margin of 16 pixels to jitter in;
zones of the right side mirrored), ``masks.npy`` uint8 [N, 160, 160], ``index.csv`` (one row a crop),
``landmarks.npz``, ``wrinkle-index.json`` and, last, an empty file ``DONE``.
"""

from __future__ import annotations

import argparse
import csv
import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from agesdk.errors import AgeSDKError, UsageError
from agesdk.faces.frames import extract_crop
from agesdk.faces.skin import skin_mask, skin_tone
from agesdk.faces.zones import CROP_SIZE, ZONE_KINDS, ZONES, crop_transform, landmarks_in_crop
from training.scores import aging_scores, fit_wrinkle_index, ridge_features, save_indices
from training.splits import split_of

logger = logging.getLogger(__name__)

STORED_SIZE = 160
MARGIN = (STORED_SIZE - CROP_SIZE) // 2
MINIMUM_SKIN = 0.12
"""A crop with less bare skin than this share says nothing about its zone and is left out."""
MINIMUM_OF_MEDIAN = 0.6
"""So is one with less than this part of its kind's median: a moustache, a fringe or a frame covers the zone,
and what its edges do to ridge filters is no wrinkle."""


@dataclass(frozen=True)
class Portrait:
    """One row of the faces' index."""

    file: str
    source: str
    age: float
    ancestry: str
    native_px: float


def read_index(faces: Path, ages: bool = True) -> list[Portrait]:
    """The portraits of ``faces/index.csv``; raises `UsageError` when it is missing or lacks a column:
    ``file`` and, if ``ages`` are needed, ``age``."""
    path = faces / "index.csv"
    if not path.exists():
        raise UsageError(
            f"'{path}' does not exist.", fix="Give the folder that holds index.csv and its pictures."
        )
    with open(path, newline="") as f:
        rows = list(csv.DictReader(f))
    if not rows or "file" not in rows[0] or (ages and "age" not in rows[0]):
        raise UsageError(f"'{path}' needs rows, with the column 'file'" + (" and 'age'." if ages else "."))
    portraits = [
        Portrait(
            row["file"],
            row.get("source") or "unknown",
            _number(path, line, "age", row["age"]) if row.get("age") else float("nan"),
            row.get("ancestry") or "",
            _number(path, line, "native_px", row.get("native_px") or "512"),
        )
        for line, row in enumerate(rows, start=2)
    ]
    for line, portrait in enumerate(portraits, start=2):
        if not 0.0 < portrait.native_px < float("inf"):
            raise UsageError(
                f"'{path}', line {line}: native_px is {portrait.native_px:g}, not a size in pixels."
            )
    return portraits


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"'{path}', line {line}: {column} is {text!r}, not a number.") from None


def find_landmarks(faces: Path, portraits: list[Portrait], cache: Path) -> np.ndarray:
    """Mesh landmarks of the largest face in each picture, float32 [N, 468, 3]; NaN where there is none."""
    if cache.exists():
        with np.load(cache) as stored:
            if list(stored["files"]) == [p.file for p in portraits]:
                return stored["landmarks"]
    from agesdk.faces import FaceAnalyzer

    analyzer = FaceAnalyzer.load()
    landmarks = np.full((len(portraits), 468, 3), np.nan, np.float32)
    for i, portrait in enumerate(tqdm(portraits, desc="landmarks", unit="face")):
        try:
            found = analyzer.detect(_read(faces / portrait.file))
        except AgeSDKError as error:
            logger.warning("%s is left out: %s", portrait.file, error)
            continue
        if found:
            landmarks[i] = found[0].landmarks
        else:
            logger.warning("%s is left out: no face found", portrait.file)
    np.savez(cache, files=np.array([p.file for p in portraits]), landmarks=landmarks)
    return landmarks


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    if image is None:
        raise UsageError(f"'{path}' can not be read as a picture.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def prepare(faces: Path, out: Path, scores_csv: Path | None = None) -> None:
    """Writes the zone data set described in the module's docstring to ``out``."""
    portraits = read_index(faces)
    given = None if scores_csv is None else _read_scores(scores_csv)
    out.mkdir(parents=True, exist_ok=True)
    (out / "DONE").unlink(missing_ok=True)  # what it stood for is overwritten from here on
    landmarks = find_landmarks(faces, portraits, out / "landmarks.npz")
    usable = [i for i in range(len(portraits)) if np.isfinite(landmarks[i]).all()]
    if not usable:
        raise UsageError(f"None of the {len(portraits)} pictures of '{faces}' shows a face.")
    count = len(usable) * len(ZONES)
    crops = np.lib.format.open_memmap(out / "crops.npy", "w+", np.uint8, (count, STORED_SIZE, STORED_SIZE, 3))
    masks = np.lib.format.open_memmap(out / "masks.npy", "w+", np.uint8, (count, STORED_SIZE, STORED_SIZE))
    features = np.zeros((count, 12))
    inner = slice(MARGIN, MARGIN + CROP_SIZE)
    lightness = np.zeros(count)
    row = 0
    for i in tqdm(usable, desc="crops", unit="face"):
        image = _read(faces / portraits[i].file)
        tone = skin_tone(image, landmarks[i])
        for zone in ZONES:
            transform = crop_transform(landmarks[i], zone, STORED_SIZE, STORED_SIZE / CROP_SIZE)
            crop = extract_crop(image, transform, STORED_SIZE)
            mask = skin_mask(crop, landmarks_in_crop(landmarks[i], transform), tone)
            crops[row], masks[row] = crop, np.rint(mask * 255)
            features[row] = ridge_features(
                np.ascontiguousarray(crop[inner, inner]), np.ascontiguousarray(mask[inner, inner])
            )
            lightness[row] = tone.lightness
            row += 1
    crops.flush()
    masks.flush()
    people = [portraits[i] for i in usable for _ in ZONES]
    zones = [zone for _ in usable for zone in ZONES]
    skin = masks[:, inner, inner].mean((1, 2)) / 255.0
    ages = np.array([p.age for p in people])
    scores, index = np.full(count, np.nan), np.full(count, np.nan)
    fitted = []
    for kind in ZONE_KINDS:
        rows = np.array([z.kind == kind for z in zones])
        rows &= skin >= max(MINIMUM_SKIN, MINIMUM_OF_MEDIAN * float(np.median(skin[rows])))
        members = np.flatnonzero(rows)
        try:
            fit, index[rows] = fit_wrinkle_index(
                kind,
                features[rows],
                ages[rows],
                [people[m].source for m in members],
                np.array([people[m].native_px for m in members]),
            )
        except UsageError as error:
            if given is None:
                raise
            logger.warning("%s", error)
            continue
        scores[rows] = aging_scores(index[rows], ages[rows])
        fitted.append(fit)
        logger.info(
            "%s: %d crops, Spearman of the index with age %.2f", kind, rows.sum(), fit.spearman_with_age
        )
    if given is not None:
        scores[:] = [given.get((p.file, z.name), np.nan) for p, z in zip(people, zones, strict=True)]
    save_indices(out / "wrinkle-index.json", fitted)
    with open(out / "index.csv", "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(
            [
                "file",
                "zone",
                "kind",
                "side",
                "score",
                "age",
                "source",
                "ancestry",
                "split",
                "lightness",
                "wrinkle_index",
                "skin",
            ]
        )
        for n in range(count):
            p, z = people[n], zones[n]
            writer.writerow(
                (p.file, z.name, z.kind, z.side, f"{scores[n]:.5f}", p.age, p.source, p.ancestry,
                split_of(p.file),
                 f"{lightness[n]:.2f}", f"{index[n]:.5f}", f"{skin[n]:.4f}")
            )  # fmt: skip
    (out / "DONE").touch()


def _read_scores(path: Path) -> dict[tuple[str, str], float]:
    """Scores in 0..1 by file and zone, from a CSV with the columns file, zone and score."""
    try:
        with open(path, newline="", encoding="utf-8") as f:
            rows = list(csv.DictReader(f))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}' can not be read", str(error)) from None
    if not rows or not {"file", "zone", "score"} <= rows[0].keys():
        raise UsageError(f"'{path}' needs the columns 'file', 'zone' and 'score'.")
    names = [zone.name for zone in ZONES]
    given = {}
    for line, row in enumerate(rows, start=2):
        value = _number(path, line, "score", row["score"] or "")
        if row["zone"] not in names:
            raise UsageError(
                f"'{path}', line {line}: {row['zone']!r} is no zone.", fix=f"Zones are {', '.join(names)}."
            )
        if not 0.0 <= value <= 1.0:
            raise UsageError(f"'{path}', line {line}: score {value:g} is outside 0..1.")
        given[(row["file"], row["zone"])] = value
    return given


def register(subparsers: argparse._SubParsersAction) -> None:
    """Adds ``prepare-zones`` to the command line."""
    parser = subparsers.add_parser(
        "prepare-zones", help="zone crops and aging scores from pictures with ages"
    )
    parser.add_argument(
        "faces", type=Path, metavar="FACES_DIR", help="folder with index.csv (file, age, ...) and pictures"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--scores", type=Path, help="CSV with file,zone,score (0..1) to use instead of computed scores"
    )
    parser.set_defaults(run=lambda args: prepare(args.faces, args.out, args.scores))
