"""The report of a measurement: a table for the reader, JSON for the record."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.quality.records import CropRecord
from benchmarks.quality.summary import demands

_PACKAGES = ("numpy", "opencv-python-headless", "opencv-python", "onnxruntime", "torch")


def provenance(bundle: Path, threads: int | None) -> dict[str, Any]:
    """What was measured, with what, where and when."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": bundle.name,
        "bundle_manifest_sha256": hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest(),
        "threads": threads,
        "versions": {"python": platform.python_version(), **versions},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def write_json(report: Mapping[str, Any], path: Path) -> None:
    """Write the report; numbers to 6 significant digits, what was not measured as null."""
    path.write_text(json.dumps(_plain(report), indent=1) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def write_crops(crops: Sequence[CropRecord], targets: Sequence[float], path: Path) -> None:
    """Write one row per crop, a column per target for what is measured at every target."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        header: list[str] = []
        for field in fields(CropRecord):
            wide = field.name in ("wrinkles", "psnr", "low_pass", "judged")
            header += [f"{field.name}_{target:g}" for target in targets] if wide else [field.name]
        writer.writerow(header)
        for crop in crops:
            row: list[str] = []
            for value in asdict(crop).values():
                row += [f"{v:.5g}" for v in value] if isinstance(value, tuple) else [_cell(value)]
            writer.writerow(row)


def _cell(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def short(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle's manifest says of its quality; ``export ldla --quality`` takes it."""
    figures = report["figures"]
    identity = figures["identity"]
    said = {
        "command": "python -m benchmarks quality-zone FACES_DIR",
        "faces": figures["faces"],
        "crops": figures["crops"],
        "identity_distance_mean": identity["mean_by_target"][f"{max(figures['targets']):g}"],
    }
    if age := figures.get("apparent_age"):
        said["apparent_age_shift_years"] = age["shift_lowest_to_highest"]
    return said | {demand.name: demand.value for demand in demands(figures)}


def table(report: Mapping[str, Any]) -> str:
    """The figures as text: demands, figures by target, zone and skin tone, and the Fréchet distances."""
    figures = report["figures"]
    lines = [
        f"{figures['faces']} held-out faces, {figures['crops']} crops, "
        f"bundle {report['provenance']['bundle']}",
        "",
    ]
    for demand in demands(figures):
        sign = ">=" if demand.at_least else "<="
        state = "not measured" if math.isnan(demand.value) else ("met" if demand.met else "NOT MET")
        lines.append(f"{demand.name:62s} {demand.value:8.3f} {sign} {demand.bound:<5g} {state}")
    lines += ["", *_by_target(figures), "", *_by_zone(figures), "", *_by_group(figures)]
    for title, name in (("zone crops", "frechet_crops"), ("whole faces", "frechet_faces")):
        if found := figures.get(name):
            lines += ["", *_frechet(title, found)]
    if age := figures.get("apparent_age"):
        lines += [
            "",
            f"apparent age, all zones 0.05 to 0.95: {age['shift_lowest_to_highest']:+.1f} years, "
            f"{age['share_of_faces_older']:.0%} of faces look older (an open age network, 18 chips a face)",
        ]
    seconds = figures["seconds"]
    lines += ["", f"seconds a portrait: prepare {seconds['prepare']:.2f}, age {seconds['age']:.2f}, mean of "]
    lines[-1] += f"{seconds['megapixels']:.2f} megapixels, load {report['provenance']['machine']['load']}"
    return "\n".join(lines)


def _by_target(figures: Mapping[str, Any]) -> list[str]:
    targets = [f"{target:g}" for target in figures["targets"]]
    rows = {
        "wrinkle index (source {:.2f})".format(figures["wrinkle_index"]["mean_source"]): figures[
            "wrinkle_index"
        ]["mean_by_target"],
        "PSNR, dB": figures["psnr"]["by_target"],
        "low-pass PSNR, dB": figures["low_pass_psnr"]["by_target"],
        "identity distance": figures["identity"]["mean_by_target"],
    }
    if judge := figures.get("judge"):
        rows["judge's score"] = judge["mean_by_target"]
        rows["judge's absolute error"] = judge["mae_by_target"]
    if age := figures.get("apparent_age"):
        rows[f"apparent age (source {age['mean_source']:.1f})"] = age["mean_by_target"]
    lines = [f"{'by target':32s}" + "".join(f"{target:>9s}" for target in targets)]
    lines += [
        f"{name:32s}" + "".join(f"{row[target]:9.2f}" for target in targets) for name, row in rows.items()
    ]
    return lines


def _by_zone(figures: Mapping[str, Any]) -> list[str]:
    wrinkles = figures["wrinkle_index"]
    columns = {
        "Spearman": wrinkles["spearman_by_zone"],
        "change": wrinkles["change_by_zone"],
        "real": figures.get("real_change_by_zone", {}),
        "low-pass": figures["low_pass_psnr"]["nearest_target_by_zone"],
        "judge MAE": figures.get("judge", {}).get("mae_by_zone", {}),
        "on real": {k: v["mae"] for k, v in figures.get("judge", {}).get("held_out", {}).items()},
    }
    lines = [f"{'by zone':32s}" + "".join(f"{name:>10s}" for name in columns)]
    for kind in wrinkles["change_by_zone"]:
        cells = "".join(f"{column.get(kind, math.nan):10.2f}" for column in columns.values())
        lines.append(f"{kind:32s}{cells}")
    return lines


def _by_group(figures: Mapping[str, Any]) -> list[str]:
    groups, ratios = figures["groups"]["by_group"], figures["groups"]["worst_to_best"]
    names = ["faces", *ratios]
    lines = [f"{'by skin tone (ITA)':32s}" + "".join(f"{name:>15s}" for name in names)]
    for group, of in groups.items():
        lines.append(f"{group:32s}" + "".join(f"{of[name]:15.3g}" for name in names))
    ratio_cells = "".join(f"{ratios[name]:15.2f}" for name in names[1:])
    return [*lines, f"{'worst to best':32s}{'':15s}{ratio_cells}"]


def _frechet(title: str, found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Fréchet distance, {title} ({found['features']}, {found['axes']} axes; not Inception FID): "
        f"{found['to_real']:.4g} to real of like scores, {found['real_halves']:.4g} between real halves",
    ]
    for name, of in found["by_target"].items():
        lines.append(f"  {name:8s} {of['to_real']:10.4g} {of['real_halves']:10.4g}   {of['samples']} a set")
    return lines
