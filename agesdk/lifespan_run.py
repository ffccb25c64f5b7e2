"""One call of `LifespanAger.age`: its settings resolved and checked, and its noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agesdk.backends.base import did_you_mean
from agesdk.diffusion.schedule import Schedule, make_schedule
from agesdk.errors import TargetError, UsageError
from agesdk.lifespan_method import adaptive_strength
from agesdk.lifespan_model import LifespanModel

PASS_1, PASS_2 = "pass1", "pass2"

FURTHER_FIRST_PASSES = 2
"""Of four-image SVR: beside the source and the first pass's picture, which are in any case there."""


@dataclass(frozen=True)
class Overrides:
    """What the caller sets instead of the bundle's; see `LifespanAger.age`."""

    strength: float | None = None
    identity_strength: float | None = None
    steps: int | None = None
    thresholds: tuple[float, float] | None = None
    one_threshold: bool | None = None
    addition: str | None = None
    prompt: str | None = None
    latent_chaining: bool = False


@dataclass(frozen=True)
class LifespanRun:
    """Settings with the bundle's defaults filled in.

    Attributes
    ----------
    schedules:
        The tables of steps of both passes.
    extra:
        Schedules of SVR's further first passes by label (``extra1``, ...), in the order of their strengths.
    first_picture:
        The first pass's picture is made: the second pass starts from it, or SVR looks at it.
    """

    source_age: int
    target_age: int
    gender: str
    prompt: str
    strength: float
    identity_strength: float
    steps: int
    latent_chaining: bool
    schedules: dict[str, Schedule]
    extra: dict[str, Schedule]
    first_picture: bool

    @property
    def noise_schedules(self) -> dict[str, Schedule]:
        """All passes that draw noise, by label."""
        return {**self.schedules, **self.extra}

    @property
    def units(self) -> int:
        """Units of work for the progress: UNet evaluations, decoded pictures, and one that is encoded."""
        steps = sum(len(schedule.steps) for schedule in self.noise_schedules.values())
        decoded = 1 + len(self.extra) + int(self.first_picture)
        return steps + decoded + int(not self.latent_chaining)

    def described(self, model: LifespanModel) -> dict[str, Any]:
        """As JSON values, for the result and the picture's metadata."""
        manifest, settings = model.bundle.manifest, model.settings
        return {
            "bundle": f"{manifest.name} {manifest.version}",
            "source_age": self.source_age,
            "target_age": self.target_age,
            "gender": self.gender,
            "prompt": self.prompt,
            "sampler": settings.scheduler.sampler,
            "strength": self.strength,
            "identity_strength": self.identity_strength,
            "steps": self.steps,
            "steps_run": [len(schedule.steps) for schedule in self.schedules.values()],
            "latent_chaining": self.latent_chaining,
            "svr_pictures": 0 if settings.svr is None else 2 + len(self.extra),
            "rotate_clip": settings.rotate_clip,
            "precision": model.engines.precisions(),
        }


def resolve(
    model: LifespanModel, source_age: float, target_age: float, gender: str, wanted: Overrides
) -> LifespanRun:
    """The run; parameters as of `LifespanAger.age`.

    Raises `TargetError` or `UsageError` for a value out of range.
    """
    settings = model.settings
    source, target = whole_age(source_age, "source"), whole_age(target_age, "target")
    if gender not in settings.genders:
        known = list(settings.genders)
        raise UsageError(
            f"The gender {gender!r} is unknown",
            f"the bundle was trained with {', '.join(known)}",
            did_you_mean(str(gender), known),
        )
    for label, strength in (("strength", wanted.strength), ("identity strength", wanted.identity_strength)):
        if strength is not None and not 0.0 < strength <= 1.0:
            raise TargetError(
                f"The {label} {strength} is out of range", "", "Give a number above 0 and up to 1"
            )
    steps = settings.steps if wanted.steps is None else wanted.steps
    first = _first_strength(model, source, target, wanted)
    second = settings.identity_strength if wanted.identity_strength is None else wanted.identity_strength
    others = [s for s in (settings.svr.strengths if settings.svr is not None else ()) if s != first]
    others = others[:FURTHER_FIRST_PASSES]
    return LifespanRun(
        source_age=source,
        target_age=target,
        gender=gender,
        prompt=_prompt(model, target, gender, wanted),
        strength=first,
        identity_strength=second,
        steps=steps,
        latent_chaining=wanted.latent_chaining,
        schedules={
            PASS_1: make_schedule(settings.scheduler, steps, first),
            PASS_2: make_schedule(settings.scheduler, steps, second),
        },
        extra={
            f"extra{number}": make_schedule(settings.scheduler, steps, strength)
            for number, strength in enumerate(others, start=1)
        },
        first_picture=settings.svr is not None or not wanted.latent_chaining,
    )


def whole_age(age: float, what: str) -> int:
    """An age in whole years; `TargetError` for another number."""
    if isinstance(age, bool) or not isinstance(age, (int, float, np.integer, np.floating)):
        raise TargetError(f"The {what} age is a {type(age).__name__}", fix="Give whole years, such as 31")
    if not math.isfinite(age) or age != int(age) or age < 0:
        raise TargetError(f"The {what} age {age} is not a whole number of years", fix="Give one, such as 31")
    return int(age)


def draw_noise(model: LifespanModel, run: LifespanRun, seed: int) -> dict[str, np.ndarray]:
    """The run's noise, float32 [1, C, h, w] by name, of numpy's default generator.

    Every pass draws as many arrays as the whole schedule has steps and takes those of its own steps, so the
    noise of a step does not depend on the strength, nor on what other passes do: an age sweep with one seed
    changes with the age only.
    """
    generator = np.random.default_rng(seed)
    noise: dict[str, np.ndarray] = {}
    for label, schedule in run.noise_schedules.items():
        drawn = generator.standard_normal((2 + run.steps, 1, *model.latent_shape()), dtype=np.float32)
        noise[f"vae_sample_{label}"], noise[f"init_noise_{label}"] = drawn[0], drawn[1]
        last = drawn[2 + run.steps - len(schedule.steps) :]
        noise.update({f"ancestral_{label}_step{i}": array for i, array in enumerate(last)})
    return noise


def check_same_batch(runs: Sequence[LifespanRun]) -> None:
    """Runs of one batch share their schedules."""
    assert all(run.schedules == runs[0].schedules and run.extra == runs[0].extra for run in runs)


def stacked(noise: Mapping[str, np.ndarray], label: str, schedule: Schedule, rows: int) -> np.ndarray:
    """The steps' noise of a pass for a batch, float32 [schedule.noisy_steps, rows, C, h, w]."""
    arrays = [noise[f"ancestral_{label}_step{i}"] for i, step in enumerate(schedule.steps) if step.c_noise]
    if not arrays:
        shape = noise[f"init_noise_{label}"].shape
        return np.zeros((0, rows, *shape[1:]), np.float32)
    return np.stack([np.repeat(array, rows, axis=0) for array in arrays])


def _first_strength(model: LifespanModel, source: int, target: int, wanted: Overrides) -> float:
    adaptive = model.settings.adaptive_noise
    if wanted.thresholds is not None:
        t1, t2 = wanted.thresholds
        if not 0 <= t1 <= t2:
            raise TargetError(
                f"The thresholds {t1}, {t2} are out of order", fix="Give 0 <= t1 <= t2, in years"
            )
        adaptive = replace(adaptive, t1=float(t1), t2=float(t2))
    if wanted.one_threshold:
        adaptive = replace(adaptive, mode="one_threshold")
    elif wanted.one_threshold is False and adaptive.mode == "one_threshold":
        adaptive = replace(adaptive, mode="two_thresholds")
    if wanted.strength is not None:
        return wanted.strength
    if wanted.addition:
        return adaptive.addition
    return adaptive_strength(adaptive, source, target)


def _prompt(model: LifespanModel, target: int, gender: str, wanted: Overrides) -> str:
    if wanted.prompt is not None and wanted.addition:
        raise UsageError("Both a prompt and an addition were given", fix="Write the addition into the prompt")
    prompt = wanted.prompt
    if prompt is None:
        prompt = model.settings.prompt.format(age=target, gender=gender)
    return f"{prompt}, {wanted.addition}" if wanted.addition else prompt
