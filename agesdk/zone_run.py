"""One call of `ZoneAger.age`: its settings, resolved and checked, and its progress."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agesdk.diffusion.schedule import Schedule, make_schedule
from agesdk.errors import Cancelled, TargetError, UsageError, ZoneError
from agesdk.faces.zones import ResolvedTargets
from agesdk.waves import make_waves
from agesdk.zone_model import ZoneModel
from agesdk.zone_prepared import PreparedFace

Progress = Callable[[int, int, str], "bool | None"]
"""Called with units done, units in all and the stage; returning False cancels."""

MAX_ETHNICITY = 200
"""Characters: more than the 77 tokens of a prompt hold beside its other words, and little for metadata."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Settings with the bundle's defaults filled in, and the zones to treat.

    Attributes
    ----------
    schedule:
        The table of steps.
    waves:
        Names of the zones to treat, in the order of treatment; those of one wave run in one batch.
    condition_scores:
        By zone the score that the model is given so that its result has the target score.
    """

    schedule: Schedule
    waves: list[list[str]]
    condition_scores: dict[str, float]
    strength: float
    steps: int
    guidance_scale: float
    ethnicity: str | None
    sequential: bool

    @property
    def zones(self) -> list[str]:
        """Names of the zones to treat, in order."""
        return [name for wave in self.waves for name in wave]

    def described(self, model: ZoneModel, targets: ResolvedTargets, refine: bool) -> dict[str, Any]:
        """As JSON values, for the result and the picture's metadata."""
        manifest = model.bundle.manifest
        return {
            "bundle": f"{manifest.name} {manifest.version}",
            "targets": {**targets.scores, **dict.fromkeys(targets.kept)},
            "sampler": model.settings.scheduler.sampler,
            "strength": self.strength,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "ethnicity": self.ethnicity,
            "sequential": self.sequential,
            "refine": refine,
            "precision": model.engines.precisions(),
        }


def resolve(
    face: PreparedFace,
    targets: Mapping[str, float],
    strength: float | None,
    steps: int | None,
    guidance_scale: float | None,
    ethnicity: str | None,
    sequential: bool | None,
) -> Run:
    """The run for a face; parameters as of `ZoneAger.age`, targets by zone name.

    Raises `TargetError` or `UsageError` for a number out of range.
    """
    model = face.model
    settings, defaults = model.settings, model.settings.defaults
    strength = defaults.strength if strength is None else strength
    steps = defaults.steps if steps is None else steps
    guidance_scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
    sequential = defaults.sequential if sequential is None else sequential
    _check_ethnicity(ethnicity)
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
        raise UsageError(f"The number of steps is {steps!r}, not a whole number")
    for name, value in (("strength", strength), ("guidance scale", guidance_scale)):
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise UsageError(f"The {name} is {value!r}, not a number")
    if not (math.isfinite(guidance_scale) and guidance_scale >= 0.0):
        raise TargetError(f"The guidance scale is {guidance_scale}", "", "Give 0 or more; up to 1 means none")
    treated = {name: face.crops[name] for name in targets if name in face.crops}
    for name in targets:
        if name not in treated:
            _log.warning("%s is left as it is: %s", name, face.skipped[name])
    if not treated:
        reasons = "; ".join(f"{name}: {face.skipped[name]}" for name in targets)
        raise ZoneError(
            "None of the zones with a target can be treated", reasons, "Take another picture or zone"
        )
    waves = make_waves({name: crop.transform for name, crop in treated.items()}, settings.crop_size)
    return Run(
        schedule=make_schedule(settings.scheduler, steps, strength),
        waves=[[name] for wave in waves for name in wave] if sequential else waves,
        condition_scores={
            name: model.condition_score(crop.zone.kind, targets[name], face.scores[name])
            for name, crop in treated.items()
        },
        strength=strength,
        steps=steps,
        guidance_scale=guidance_scale,
        ethnicity=ethnicity,
        sequential=sequential,
    )


def _check_ethnicity(text: str | None) -> None:
    """Raise `UsageError` for what can not name an ethnicity in a prompt, or in a picture's metadata."""
    if text is None:
        return
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"The ethnicity is {text!r}, not a name", fix="Leave it out or give a name")
    if len(text) > MAX_ETHNICITY:
        raise UsageError(
            f"The ethnicity has {len(text)} characters",
            f"the limit is {MAX_ETHNICITY}",
            "Shorten it",
        )


class Ticker:
    """Counts units of work and asks the callback after each whether to go on; raises `Cancelled` if not."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.stage = ""
        self._progress = progress
        self._done = 0
        self._total = total

    def advance(self, units: int) -> None:
        self._done += units
        if self._progress is not None and self._progress(self._done, self._total, self.stage) is False:
            raise Cancelled()
