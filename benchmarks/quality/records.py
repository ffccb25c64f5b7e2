"""What is measured of one crop and of one face. Everything that is reported is computed from these."""

from __future__ import annotations

from dataclasses import dataclass, field

TARGETS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Target scores, for all zones at once."""


@dataclass(frozen=True)
class CropRecord:
    """One zone of one face, before and at every target.

    Parameters
    ----------
    file, zone, kind:
        Which.
    group:
        Skin tone group of the face (:data:`benchmarks.quality.metrics.ITA_GROUPS`).
    label:
        Score of the source, 0..1.
    wrinkles_source, wrinkles:
        Wrinkle index of the source, and at each target, in population SD.
    psnr, low_pass:
        Against the source, at each target, in dB.
    judged_source, judged:
        The judge's scores, 0..1; NaN without a judge.
    """

    file: str
    zone: str
    kind: str
    group: str
    label: float
    wrinkles_source: float
    wrinkles: tuple[float, ...]
    psnr: tuple[float, ...]
    low_pass: tuple[float, ...]
    judged_source: float = float("nan")
    judged: tuple[float, ...] = (float("nan"),) * len(TARGETS)


@dataclass(frozen=True)
class FaceRecord:
    """One face.

    Parameters
    ----------
    group, lightness, ita:
        Skin tone: group, CIE L* (0..100) and individual typology angle (degrees).
    identity:
        Distance of the identity embedding between source and result, at each target.
    age_source, age:
        Apparent age in years, of the source and at each target.
    outside_unchanged:
        With all zones at the highest target: every pixel outside all zones is the source's.
    single_unchanged:
        With one zone only: every pixel outside that zone is the source's.
    size_kept:
        The result has the shape of the source.
    seconds_prepare, seconds_age:
        Wall-clock time of preparing, and of one run with all zones (median over the targets).
    megapixels:
        Of the source.
    skipped:
        Zones that the runtime left out as occluded or out of the picture.
    """

    file: str
    group: str
    lightness: float
    ita: float
    age_label: float
    identity: tuple[float, ...]
    age_source: float
    age: tuple[float, ...]
    outside_unchanged: bool
    single_unchanged: bool
    size_kept: bool
    seconds_prepare: float
    seconds_age: float
    megapixels: float
    skipped: tuple[str, ...] = field(default=())
