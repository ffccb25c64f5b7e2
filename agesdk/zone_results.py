"""What zone aging returns."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from agesdk.imaging import write_image
from agesdk.timing import StageTimings


@dataclass(frozen=True, eq=False)
class ZoneResult:
    """What happened to one zone.

    Attributes
    ----------
    score_before, score_after:
        Aging score in 0..1 by the bundle's ScoreNet, in the source and in the finished picture; None where
        the zone could not be seen.
    target:
        The score that was asked for.
    skipped:
        Why the zone was left as it was; None if it was treated.
    wave:
        Number of the wave it was aged in, from 0; None if it was skipped.
    crop:
        uint8 [S, S, 3]: what the model made of the crop, before it was pasted; right-side zones are mirrored.
        None if the zone was skipped.
    """

    score_before: float | None
    target: float
    score_after: float | None
    skipped: str | None = None
    wave: int | None = None
    crop: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class AgingResult:
    """An aged picture and how it came about.

    Attributes
    ----------
    image:
        uint8 [H, W, 3] RGB, at the source's full resolution. Pixels outside the treated zones, and inside
        zones that were set to None, are the source's.
    zones:
        By name, every zone that had a target, in table order.
    seed:
        Reproduces the result with the same settings; None if the noise was passed in.
    settings:
        Everything else the result depends on, as JSON values: bundle, targets (None for a zone that was
        kept), strength, steps, guidance scale...
    timings:
        Seconds by stage.
    icc_profile:
        The source's colour profile, written with the picture.
    """

    image: np.ndarray
    zones: dict[str, ZoneResult]
    seed: int | None
    settings: dict[str, Any]
    timings: StageTimings
    icc_profile: bytes | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture (.png, .jpg or .webp), marked as made with AI, with seed, settings and scores.

        Raises
        ------
        OutputError
            The folder is not writable or the suffix unknown; nothing half-written is left.
        """
        scores = {
            name: {"before": zone.score_before, "target": zone.target, "after": zone.score_after}
            for name, zone in self.zones.items()
            if zone.skipped is None
        }
        write_image(
            path,
            self.image,
            {"seed": self.seed, **self.settings, "scores": scores},
            icc_profile=self.icc_profile,
        )
