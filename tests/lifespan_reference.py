"""Tiny checkpoints in Cradle2Cane's published layout, the bundles made of them, and the recorded outputs of
the published script on them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agesdk.bundle import Bundle
from agesdk.lifespan_aging import LifespanAger, LifespanFace

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("AGESDK_SHARED", ROOT.parent / "shared"))
NAMES = ("a", "b")
AGES = (10, 75)
CASES = [
    f"{image}_{ages}_{gender}"
    for image, genders in (("as", "fmfm"), ("tx", "mfmf"))
    for ages, gender in zip(("25_28", "25_45", "25_75", "60_10"), genders)
]


@dataclass(frozen=True)
class Variant:
    """A checkpoint, its bundles and what the published script made of it."""

    name: str
    models: Path
    golden: Mapping[str, np.ndarray]
    switch: Bundle
    fused: Bundle

    def ager(self, lora: str = "switch", text: str = "tables", **settings: Any) -> LifespanAger:
        """An ager with the published script's range of CLIP's pixels, unless told otherwise."""
        bundle = self.switch if lora == "switch" else self.fused
        changed = replace(bundle.settings, **{"clip_pixel_range": "0..255", **settings})
        manifest = replace(bundle.manifest, settings=changed)
        return LifespanAger.load(Bundle(bundle.path, manifest), threads=1, text=text)

    def case(self, name: str) -> dict[str, Any]:
        """The recorded arrays of a case, by their names within it."""
        prefix = f"{name}/"
        return {key[len(prefix) :]: self.golden[key] for key in self.golden if key.startswith(prefix)}

    def noise(self, name: str) -> dict[str, np.ndarray]:
        """The recorded noise of a case."""
        prefix = f"{name}/noise/"
        return {key[len(prefix) :]: self.golden[key] for key in self.golden if key.startswith(prefix)}

    def request(self, name: str) -> dict[str, Any]:
        """Ages, gender and noise of a case as arguments of `LifespanAger.age`."""
        case = {key: self.golden[f"{name}/{key}"] for key in ("source_age", "target_age", "gender")}
        return {
            "source_age": int(case["source_age"]),
            "target_age": int(case["target_age"]),
            "gender": str(case["gender"]),
            "noise": self.noise(name),
        }


def make_variants(reference: Path, vocabulary: Path, folder: Path) -> None:
    """Write and export both checkpoints, side by side: tracing keeps one core busy each.

    What ``folder`` holds already from a run before is taken as it is.
    """
    missing = [name for name in NAMES if not (folder / name / "fused" / "manifest.json").is_file()]
    script = [sys.executable, "-m", "tests.lifespan_reference", str(reference), str(vocabulary)]
    started = [
        subprocess.Popen(
            [*script, str(folder / name), name],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in missing
    ]
    for process in started:
        told, _ = process.communicate()
        assert process.returncode == 0, told


def load_variant(name: str, reference: Path, folder: Path) -> Variant:
    """A variant that `make_variants` made."""
    golden = dict(np.load(reference / f"golden_{name}.npz", allow_pickle=False))
    own = folder / name
    return Variant(name, own / "models", golden, Bundle.open(own / "switch"), Bundle.open(own / "fused"))


def make_variant(name: str, reference: Path, vocabulary: Path, folder: Path) -> None:
    """Write one checkpoint, compare its digest with the recorded one, and export it."""
    import torch

    torch.set_num_threads(1)
    shutil.rmtree(folder, ignore_errors=True)
    models = folder / "models"
    script = [sys.executable, str(reference / "make_checkpoint.py"), str(models), "--variant", name]
    made = subprocess.run([*script, "--bpe", str(vocabulary)], capture_output=True, text=True, check=True)
    with np.load(reference / f"golden_{name}.npz", allow_pickle=False) as golden:
        digest = str(golden["checkpoint_digest"])
    assert digest in made.stdout, "this checkpoint is not the one that was recorded"
    _export_both(models, folder)


def _export_both(models: Path, folder: Path) -> None:
    from export.cradle2cane import Options, export_cradle2cane

    options = Options(models, folder / "switch", text="both", ages=AGES, progress=False)
    export_cradle2cane(options)
    fused_bundle(Bundle.open(folder / "switch"), replace(options, bundle=folder / "fused", lora="fused"))


def fused_bundle(switch: Bundle, options: Any) -> None:
    """The bundle of ``--lora fused``: its UNets exported, everything else taken from the other bundle."""
    from agesdk.bundle import write_manifest
    from export.bundle_writer import BundleWriter
    from export.cradle2cane.command import export_plan, make_settings
    from export.cradle2cane.plans import make_plans
    from export.cradle2cane.source import Source

    source = Source.open(options.models)
    settings = make_settings(source, options)
    for path in switch.path.rglob("*"):
        relative = path.relative_to(switch.path)
        if path.is_file() and "denoise" not in relative.as_posix() and path.name != "manifest.json":
            target = options.bundle / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    components = {name: c for name, c in switch.manifest.components.items() if name != "denoise"}
    for plan in make_plans(source, settings, options):
        if plan.components and plan.components[0].startswith("denoise"):
            export_plan(plan, options, BundleWriter(options.bundle), components, {}, {})
    manifest = replace(switch.manifest, settings=settings, components=components, files=())
    write_manifest(options.bundle, manifest)


class Prepared:
    """Agers and prepared faces, made once: what depends on the person only is not what these tests are
    about. The latest agers stay; each holds a gigabyte."""

    MOST = 2

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[LifespanAger, dict[str, LifespanFace]]] = {}

    def __call__(self, variant: Variant, image: str, **options: Any) -> tuple[LifespanAger, LifespanFace]:
        key = (variant.name, *sorted(options.items()))
        ager, faces = self._kept.pop(key, None) or (variant.ager(**options), {})
        self._kept[key] = ager, faces
        if len(self._kept) > self.MOST:
            del self._kept[next(iter(self._kept))]
        if image not in faces:
            faces[image] = ager.prepare(variant.golden[f"images/{image}"])
        return ager, faces[image]


if __name__ == "__main__":
    make_variant(sys.argv[4], Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
