"""``python -m export calibrate BUNDLE --crops ZONES_DIR``: which score to ask for, given the one a crop has.

Held-out crops are aged under a grid of conditions and pasted as the runtime does for a grid of targets, and
what came out is read by its wrinkle index (`export.score_reader`). The answers, inverted, are written into
the manifest as ``source_calibration``.
"""

from __future__ import annotations

import argparse
import functools
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agesdk.zone_model import ZoneModel

    from .score_reader import ScoreReader

logger = logging.getLogger(__name__)

CONDITIONS = (0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
PASTED_FOR = (0.05, 0.35, 0.65, 0.95)
"""Targets that the results are pasted for: how much of a change is pasted depends on the target."""

SOURCES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Scores before, for each of which a curve is written."""

FEWEST_CROPS = 12
"""With fewer crops of a kind of zone its calibration stays as it is."""


def register(subparsers: Any) -> None:
    """Add the ``calibrate`` command."""
    parser = subparsers.add_parser(
        "calibrate",
        help="measure how a zone-aging bundle responds to crops of every score, and write its calibration",
        description="Measure, on held-out crops, which score to ask of a zone-aging bundle so that a crop of "
        "a known score gets a wanted one, and write it into the manifest. Graphs stay.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="zone-aging bundle")
    parser.add_argument(
        "--crops", type=Path, required=True, metavar="ZONES_DIR", help="output of training prepare-zones"
    )
    parser.add_argument(
        "--reader",
        choices=("wrinkle-index", "score-net"),
        default="wrinkle-index",
        help="what reads the scores of results: the rank of their wrinkle index, or the bundle's ScoreNet "
        "where scores are a user's own (default: %(default)s)",
    )
    parser.add_argument(
        "--count", type=int, default=256, help="crops, of all zones together (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all physical cores)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command; 0 when the manifest is written.

    Raises
    ------
    BundleError
        Not a zone-aging bundle, or altered.
    UsageError
        No held-out crops, or no wrinkle index to read results by.
    """
    from agesdk.bundle import Bundle, ZoneAgingSettings, write_manifest
    from agesdk.errors import UsageError
    from agesdk.zone_model import ZoneModel

    from .calibration import scores_of
    from .score_reader import index_reader

    if arguments.count < 1:
        raise UsageError(f"--count {arguments.count} leaves no crop", fix="Give 1 or more")
    bundle = Bundle.open(arguments.bundle, kind="zone-aging", verify=True)
    model = ZoneModel.open(bundle, threads=arguments.threads, precision="fp32")
    read = (
        index_reader(arguments.crops, model.settings.zones, model.settings.crop_size)
        if arguments.reader == "wrinkle-index"
        else functools.partial(scores_of, model)
    )
    measured = measure(model, arguments.crops, read, arguments.count)
    assert isinstance(bundle.settings, ZoneAgingSettings)
    settings = replace(bundle.settings, source_calibration={**bundle.settings.source_calibration, **measured})
    write_manifest(bundle.path, replace(bundle.manifest, settings=settings, files=()))
    logger.info("%s: %d kinds of zones calibrated", bundle.path, len(measured))
    return 0


def measure(model: ZoneModel, folder: Path, read: ScoreReader, count: int) -> dict[str, Any]:
    """``source_calibration`` of a bundle's zones with enough crops."""
    import numpy as np
    from tqdm import tqdm

    from agesdk.errors import UsageError
    from agesdk.manifest import SourceCurve
    from agesdk.timing import Stopwatch
    from agesdk.zone_aging import zone_change
    from agesdk.zone_prepared import complete
    from training.calibrate import inverted_by_target, response_by_source

    from .calibration import WAVE, age_crops, fresh, read_sample, scores_of

    settings = model.settings
    sample = read_sample(folder, "val", count, settings.zones, settings.crop_size, seed=0)
    kinds = np.array([crop.zone.kind for crop in sample.crops])
    before, after = np.empty(len(kinds)), np.empty((len(kinds), len(CONDITIONS), len(PASTED_FOR)))
    for start in tqdm(range(0, len(kinds), WAVE), unit="wave", disable=None):
        rows = slice(start, min(start + WAVE, len(kinds)))
        crops = [fresh(crop) for crop in sample.crops[rows]]
        complete(crops, model, Stopwatch())
        before[rows] = scores_of(model, crops)
        for column, condition in enumerate(CONDITIONS):
            made = age_crops(model, crops, [condition] * len(crops), [start])
            results = []
            for crop, result, score in zip(crops, made, before[rows]):
                for target in PASTED_FOR:
                    # All skin of the crop changes: what its own feather leaves out, its neighbours paste.
                    change = zone_change(crop, result, float(score), target, settings, crop.skin)
                    pixels = np.clip(np.rint(crop.pixels + crop.skin[..., None] * change), 0, 255)
                    results.append(replace(fresh(crop), pixels=pixels.astype(np.uint8)))
            after[rows, column] = np.reshape(read(results), (len(crops), len(PASTED_FOR)))
    curves: dict[str, Any] = {}
    for kind in settings.zones:
        own = kinds == kind
        if own.sum() < FEWEST_CROPS:
            logger.warning("%s has %d crops and stays as it is", kind, own.sum())
            continue
        answers = after[own].reshape(int(own.sum()), -1)
        response = response_by_source(before[own], answers, SOURCES).reshape(-1, *after.shape[1:])
        for target, answers in zip(PASTED_FOR, np.moveaxis(response, -1, 0)):
            logger.info("%s, from %s for %g: %s", kind, SOURCES, target, answers.round(2).tolist())
        curves[kind] = tuple(
            SourceCurve(source, tuple((x, y) for x, y in inverted_by_target(row, CONDITIONS, PASTED_FOR)))
            for source, row in zip(SOURCES, response, strict=True)
        )
    if not curves:
        raise UsageError(
            f"No zone has {FEWEST_CROPS} crops among {len(kinds)}",
            "",
            "Give a larger --count, or prepare more faces",
        )
    return curves
