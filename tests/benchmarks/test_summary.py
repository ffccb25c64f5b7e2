"""Figures against records made by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import report
from benchmarks.quality.records import TARGETS, CropRecord, FaceRecord
from benchmarks.quality.summary import demands, summarise


def crop(kind: str, change: float, label: float = 0.5, group: str = "light", **others: object) -> CropRecord:
    wrinkles = tuple(change * (target - 0.05) / 0.9 for target in TARGETS)
    record = CropRecord(
        file="a.png",
        zone=kind,
        kind=kind,
        group=group,
        label=label,
        wrinkles_source=0.3,
        wrinkles=wrinkles,
        psnr=(40.0, 41.0, 42.0, 39.0, 38.0),
        low_pass=(50.0, 51.0, 52.0, 49.0, 48.0),
    )
    return dataclasses.replace(record, **others)  # type: ignore[arg-type]


def face(group: str = "light", identity: float = 0.2, **others: object) -> FaceRecord:
    record = FaceRecord(
        file="a.png",
        group=group,
        lightness=70.0,
        ita=45.0,
        age_label=30.0,
        identity=(0.1, 0.1, 0.1, 0.15, identity),
        age_source=30.0,
        age=(25.0, 28.0, 31.0, 34.0, 37.0),
        outside_unchanged=True,
        single_unchanged=True,
        size_kept=True,
        seconds_prepare=0.5,
        seconds_age=2.0,
        megapixels=0.6,
    )
    return dataclasses.replace(record, **others)  # type: ignore[arg-type]


def test_change_is_averaged_over_zones_not_crops() -> None:
    figures = summarise([face()], [crop("forehead", 2.0)] * 3 + [crop("upper_lip", 1.0)])["wrinkle_index"]
    assert figures["change_by_zone"] == pytest.approx({"forehead": 2.0, "upper_lip": 1.0})
    assert figures["change"] == pytest.approx(1.5)
    assert figures["spearman"] == pytest.approx(1.0)


def test_a_wrong_order_lowers_the_rank_agreement() -> None:
    reverse = crop("forehead", -1.0)
    figures = summarise([face()], [crop("forehead", 1.0), reverse])["wrinkle_index"]
    assert figures["spearman"] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("label", "expected"), [(0.0, 50.0), (0.3, 51.0), (0.55, 52.0), (0.7, 49.0), (1.0, 48.0)]
)
def test_low_pass_is_read_where_least_should_change(label: float, expected: float) -> None:
    figures = summarise([face()], [crop("forehead", 1.0, label)])["low_pass_psnr"]
    assert figures["nearest_target"] == expected
    assert figures["by_target"]["0.95"] == 48.0


def test_the_judges_error_is_against_targets() -> None:
    judged = tuple(target + 0.1 for target in TARGETS)
    figures = summarise([face()], [crop("forehead", 1.0, judged_source=0.7, judged=judged)])["judge"]
    assert figures["mae"] == pytest.approx(0.1)
    assert figures["mae_on_sources"] == pytest.approx(0.2)


def test_what_was_not_measured_is_left_out() -> None:
    figures = summarise([face(age_source=float("nan"), age=(float("nan"),) * 5)], [crop("forehead", 1.0)])
    assert "judge" not in figures and "apparent_age" not in figures
    unmet = {demand.name: demand.met for demand in demands(figures)}
    assert unmet["score reached, MAE by the judge"] is False


def test_identity_is_judged_by_the_worst_face() -> None:
    figures = summarise([face(identity=0.1), face(identity=0.5)], [crop("forehead", 1.0)])["identity"]
    assert figures["mean_by_target"]["0.95"] == pytest.approx(0.3)
    assert figures["highest_target_maximum"] == 0.5


def test_age_shift_is_from_lowest_to_highest_target() -> None:
    assert summarise([face()], [crop("forehead", 1.0)])["apparent_age"]["shift_lowest_to_highest"] == 12.0


def test_groups_are_compared_only_when_large_enough() -> None:
    crops = [
        crop("forehead", 2.0),
        crop("forehead", 1.0, group="dark"),
        crop("forehead", 0.1, group="medium"),
    ]
    faces = [face()] * 3 + [face("dark", identity=0.4)] * 3 + [face("medium")]
    groups = summarise(faces, crops)["groups"]
    assert set(groups["by_group"]) == {"light", "medium", "dark"}
    assert groups["worst_to_best"]["change"] == pytest.approx(0.5)
    assert groups["worst_to_best"]["identity"] == pytest.approx(0.5)


def test_one_changed_pixel_outside_fails_the_demand() -> None:
    figures = summarise([face(), face(single_unchanged=False)], [crop("forehead", 2.0)])
    found = next(demand for demand in demands(figures) if "untouched" in demand.name)
    assert not found.met


def test_report_is_strict_json_and_a_table(tmp_path: Path) -> None:
    judged = (float("nan"),) * 5
    crops = [crop("forehead", 2.0), crop("upper_lip", 1.5, judged=judged)]
    figures = summarise([face()], crops)
    figures["frechet_crops"] = {
        "features": "x",
        "axes": 2,
        "to_real": 1.5,
        "real_halves": 1.0,
        "by_target": {"0.05": {"samples": 4, "to_real": 1.5, "real_halves": 1.0}},
    }
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    complete = {"provenance": report.provenance(bundle, 1), "figures": figures}
    report.write_json(complete, tmp_path / "report.json")
    stored = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert stored["figures"]["wrinkle_index"]["change"] == pytest.approx(1.75)
    # SHA-256 of the two bytes "{}".
    assert stored["provenance"]["bundle_manifest_sha256"].startswith("44136fa355b3678a")
    text = report.table(complete)
    assert "NOT MET" in text and "upper_lip" in text and "not Inception FID" in text
    report.write_crops(crops, TARGETS, tmp_path / "crops.csv")
    header, first, *_ = (tmp_path / "crops.csv").read_text().splitlines()
    assert len(header.split(",")) == len(first.split(",")) == 7 + 4 * len(TARGETS)
    assert np.isclose(float(first.split(",")[header.split(",").index("wrinkles_0.95")]), 2.0)
