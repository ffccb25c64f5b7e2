"""From records to figures, and from figures to what the project demands of its embedded model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.quality.metrics import ITA_GROUPS, mean, spearman, worst_to_best
from benchmarks.quality.records import TARGETS, CropRecord, FaceRecord

SMALLEST_GROUP = 3
"""Faces below which a group's figures are given but not compared."""


@dataclass(frozen=True)
class Demand:
    """A figure, its bound, and whether it is met. `value` is NaN when it was not measured."""

    name: str
    value: float
    bound: float
    at_least: bool

    @property
    def met(self) -> bool:
        """NaN meets nothing."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def summarise(
    faces: Sequence[FaceRecord], crops: Sequence[CropRecord], targets: Sequence[float] = TARGETS
) -> dict[str, Any]:
    """All figures that are means of records, as a JSON-ready dictionary. Wrinkle figures are in population
    SD."""
    kinds = list(dict.fromkeys(crop.kind for crop in crops))
    by_kind = {kind: [crop for crop in crops if crop.kind == kind] for kind in kinds}
    highest, lowest = int(np.argmax(targets)), int(np.argmin(targets))
    judged = any(np.isfinite(crop.judged_source) for crop in crops)
    aged = any(np.isfinite(face.age_source) for face in faces)
    summary: dict[str, Any] = {
        "faces": len(faces),
        "crops": len(crops),
        "targets": list(targets),
        "wrinkle_index": {
            "spearman": rank_agreement(crops, targets),
            "spearman_by_zone": {kind: rank_agreement(of, targets) for kind, of in by_kind.items()},
            "change": change(crops, targets),
            "change_by_zone": {kind: change(of, targets) for kind, of in by_kind.items()},
            "mean_by_target": _by_target(targets, lambda i: [crop.wrinkles[i] for crop in crops]),
            "mean_source": mean([crop.wrinkles_source for crop in crops]),
        },
        "psnr": {
            "nearest_target": mean([crop.psnr[nearest(crop, targets)] for crop in crops]),
            "by_target": _by_target(targets, lambda i: [crop.psnr[i] for crop in crops]),
        },
        "low_pass_psnr": {
            "nearest_target": nearest_low_pass(crops, targets),
            "nearest_target_by_zone": {k: nearest_low_pass(of, targets) for k, of in by_kind.items()},
            "by_target": _by_target(targets, lambda i: [crop.low_pass[i] for crop in crops]),
        },
        "identity": {
            "mean_by_target": _by_target(targets, lambda i: [face.identity[i] for face in faces]),
            "highest_target_95th_percentile": _percentile([face.identity[highest] for face in faces], 95),
            "highest_target_maximum": max((face.identity[highest] for face in faces), default=float("nan")),
        },
        "untouched": {
            "outside_all_zones_identical": all(face.outside_unchanged for face in faces),
            "outside_single_zone_identical": all(face.single_unchanged for face in faces),
            "size_kept": all(face.size_kept for face in faces),
        },
        "seconds": {
            "prepare": mean([face.seconds_prepare for face in faces]),
            "age": mean([face.seconds_age for face in faces]),
            "megapixels": mean([face.megapixels for face in faces]),
        },
        "groups": group_figures(faces, crops, targets),
    }
    if judged:
        summary["judge"] = {
            "mae": judge_error(crops, targets),
            "mae_by_target": _by_target(
                targets, lambda i: [abs(crop.judged[i] - targets[i]) for crop in crops]
            ),
            "mae_by_zone": {kind: judge_error(of, targets) for kind, of in by_kind.items()},
            "mean_by_target": _by_target(targets, lambda i: [crop.judged[i] for crop in crops]),
            "mae_on_sources": mean([abs(crop.judged_source - crop.label) for crop in crops]),
        }
    if aged:
        summary["apparent_age"] = {
            "shift_lowest_to_highest": mean([face.age[highest] - face.age[lowest] for face in faces]),
            "share_of_faces_older": mean([float(face.age[highest] > face.age[lowest]) for face in faces]),
            "mean_by_target": _by_target(targets, lambda i: [face.age[i] for face in faces]),
            "mean_source": mean([face.age_source for face in faces]),
        }
    return summary


def _by_target(targets: Sequence[float], values: Callable[[int], list[float]]) -> dict[str, float]:
    return {f"{target:g}": mean(values(i)) for i, target in enumerate(targets)}


def _percentile(values: Sequence[float], q: float) -> float:
    return float(np.percentile(values, q)) if values else float("nan")


def rank_agreement(crops: Sequence[CropRecord], targets: Sequence[float]) -> float:
    """Mean over crops of Spearman's correlation between targets and wrinkle indices of the results."""
    return mean([spearman(targets, crop.wrinkles) for crop in crops])


def change(crops: Sequence[CropRecord], targets: Sequence[float]) -> float:
    """Wrinkle index at the highest target minus that at the lowest: mean over crops of a kind, then over
    kinds."""
    highest, lowest = int(np.argmax(targets)), int(np.argmin(targets))
    by_kind: dict[str, list[float]] = {}
    for crop in crops:
        by_kind.setdefault(crop.kind, []).append(crop.wrinkles[highest] - crop.wrinkles[lowest])
    return mean([mean(values) for values in by_kind.values()])


def nearest(crop: CropRecord, targets: Sequence[float]) -> int:
    """Index of the target nearest to the labelled score: the one that should change least."""
    return int(np.argmin(np.abs(np.asarray(targets) - crop.label)))


def nearest_low_pass(crops: Sequence[CropRecord], targets: Sequence[float]) -> float:
    """Low-pass PSNR at the target nearest to the label, mean over crops, dB."""
    return mean([crop.low_pass[nearest(crop, targets)] for crop in crops])


def judge_error(crops: Sequence[CropRecord], targets: Sequence[float]) -> float:
    """Mean absolute difference between target and the judge's score, over crops and targets."""
    return mean([abs(score - target) for crop in crops for score, target in zip(crop.judged, targets)])


def group_figures(
    faces: Sequence[FaceRecord], crops: Sequence[CropRecord], targets: Sequence[float]
) -> dict[str, Any]:
    """Figures by skin tone group, and by figure the worst group's share of the best (1 is equal)."""
    highest = int(np.argmax(targets))
    figures: dict[str, dict[str, float]] = {}
    for name, _ in ITA_GROUPS:
        members = [face for face in faces if face.group == name]
        own = [crop for crop in crops if crop.group == name]
        if members and own:
            figures[name] = {
                "faces": len(members),
                "spearman": rank_agreement(own, targets),
                "change": change(own, targets),
                "low_pass_psnr": nearest_low_pass(own, targets),
                "judge_mae": judge_error(own, targets),
                "identity": mean([face.identity[highest] for face in members]),
            }
    compared = {name: of for name, of in figures.items() if of["faces"] >= SMALLEST_GROUP}
    directions = {
        "spearman": True,
        "change": True,
        "low_pass_psnr": True,
        "judge_mae": False,
        "identity": False,
    }
    ratios = {
        figure: worst_to_best({name: of[figure] for name, of in compared.items()}, higher)
        for figure, higher in directions.items()
    }
    return {"by_group": figures, "worst_to_best": ratios}


def demands(summary: Mapping[str, Any]) -> list[Demand]:
    """What the embedded model must show, with the figures found."""
    wrinkles, seconds = summary["wrinkle_index"], summary["seconds"]
    smallest = min(wrinkles["change_by_zone"].values(), default=float("nan"))
    ratios = summary["groups"]["worst_to_best"]
    total = seconds.get("one_megapixel", {}).get("total", float("nan"))
    untouched = float(all(summary["untouched"].values()))
    return [
        Demand("wrinkle index against target, Spearman per crop", wrinkles["spearman"], 0.95, True),
        Demand("wrinkle index 0.05 to 0.95, population SD", wrinkles["change"], 1.8, True),
        Demand("the same in the weakest zone", smallest, 1.2, True),
        Demand(
            "low-pass PSNR at the target nearest to the label, dB",
            summary["low_pass_psnr"]["nearest_target"],
            46,
            True,
        ),
        Demand(
            "score reached, MAE by the judge", summary.get("judge", {}).get("mae", float("nan")), 0.15, False
        ),
        Demand(
            "identity distance at 0.95, worst face",
            summary["identity"]["highest_target_maximum"],
            0.35,
            False,
        ),
        *(
            Demand(f"skin tone groups, worst to best: {figure.replace('_', ' ')}", ratio, 0.8, True)
            for figure, ratio in ratios.items()
        ),
        Demand("untouched pixels identical, size kept", untouched, 1, True),
        Demand("seconds for a portrait of 1 megapixel", total, 6, False),
    ]
