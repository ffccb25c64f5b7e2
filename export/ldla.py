"""``python -m export ldla CHECKPOINT BUNDLE``: a zone-aging bundle from a trained checkpoint.

Components are handled one after the other: load, record torch's outputs, export, forget, compare ONNX Runtime
with the record. Memory peaks at about twice the largest component, whatever the whole checkpoint weighs.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agesdk.bundle import (
    Component,
    LearnedCondition,
    Manifest,
    SchedulerSettings,
    ZoneAgingDefaults,
    ZoneAgingSettings,
)
from agesdk.diffusion.prompts import LDLA_TEMPLATES
from agesdk.errors import UsageError
from agesdk.manifest import PASTE_SETTINGS
from agesdk.strict_json import Invalid, decode

from .errors import CheckpointError

if TYPE_CHECKING:
    from .bundle_writer import BundleWriter
    from .checkpoint import Checkpoint
    from .graphs import Graph
    from .onnx_export import Precision
    from .parity import Difference

logger = logging.getLogger(__name__)

SAMPLERS = {
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "ddim",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "LCMScheduler": "lcm",
}
"""diffusers' scheduler class -> sampler. PNDM is Stable Diffusion's stored default."""

PAPER_DEFAULTS = ZoneAgingDefaults(steps=40, strength=0.2, guidance_scale=0.8)
"""LDLA's inference: 8 of 40 steps; a guidance below 1 means none."""

CONDITIONED_DEFAULTS = ZoneAgingDefaults(steps=10, strength=0.8, guidance_scale=3.0)

REFINER_PROMPT = "Utra realistic image of a human face"
"""LDLA's prompt, in its own spelling."""

REFINER_SIDES = (256, 512, 1024)
"""Smallest, usual and largest side of the refiner's picture in pixels; any multiple of 64 between is
possible."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    checkpoint: Path
    bundle: Path
    precision: Precision = "fp32"
    keep_fp32: tuple[str, ...] = ()
    half_storage: bool = False
    score_net: Path | None = None
    refiner: Path | None = None
    refiner_strength: float = 0.05
    refiner_steps: int = 40
    quality: Path | None = None
    calibration: Path | None = None
    licenses: Path | None = None
    name: str | None = None
    version: str | None = None
    replace: bool = False
    progress: bool = True


Made = Mapping[str, Component]
"""The components exported so far, by name."""


@dataclass(frozen=True)
class Plan:
    """One network of the checkpoint and the components made of it."""

    folder: Path
    classes: tuple[str, ...]
    components: tuple[str, ...]
    graphs: Callable[[Any, Made], dict[str, Graph]]


def register(subparsers: Any) -> None:
    """Add the ``ldla`` command."""
    parser = subparsers.add_parser(
        "ldla",
        help="a zone-aging checkpoint (small model, or Stable Diffusion layout) to a bundle",
        description="Export a zone-aging checkpoint to a bundle, and check every component against torch.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint folder")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder to write; must not exist")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of the networks (default fp32); int8 is for CPUs, needs --crops, and keeps fp32 beside",
    )
    parser.add_argument(
        "--crops", type=Path, metavar="ZONES_DIR", help="real crops to calibrate int8 on; see export convert"
    )
    parser.add_argument(
        "--keep-fp32", action="append", default=[], metavar="COMPONENT", help="leave a component in float32"
    )
    parser.add_argument(
        "--half-storage",
        action="store_true",
        help="round weights to float16 on disk, half the size; they are computed with as --precision says",
    )
    parser.add_argument(
        "--score-net", type=Path, metavar="FOLDER", help="use this ScoreNet, not the checkpoint's"
    )
    parser.add_argument(
        "--refiner", type=Path, metavar="FOLDER", help="UNet of the refiner pass over the whole face"
    )
    parser.add_argument("--refiner-strength", type=float, default=Options.refiner_strength)
    parser.add_argument("--refiner-steps", type=int, default=Options.refiner_steps)
    parser.add_argument(
        "--quality", type=Path, metavar="FILE", help="measured quality, JSON, for the provenance"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="JSON with calibration and score_calibration per zone",
    )
    parser.add_argument("--licenses", type=Path, metavar="FILE", help="text that becomes LICENSES.md")
    parser.add_argument("--name", help="the bundle's name (default: the checkpoint's)")
    parser.add_argument("--version", help="the bundle's version (default: the checkpoint's, or 1)")
    parser.add_argument("--replace", action="store_true", help="replace BUNDLE if it is a bundle")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command; 0 when the bundle is written."""
    values = {key: value for key, value in vars(arguments).items() if key in Options.__dataclass_fields__}
    values |= {"keep_fp32": tuple(arguments.keep_fp32), "progress": not arguments.quiet}
    if arguments.precision == "int8":
        export_int8(Options(**{**values, "precision": "fp32"}), arguments.crops)
    else:
        export_ldla(Options(**values))
    return 0


def export_int8(options: Options, crops: Path | None) -> Manifest:
    """`export_ldla`, and the bundle converted to int8 with float32 beside (`export.convert`)."""
    from . import convert

    if crops is None:
        raise UsageError(convert.NO_CROPS, "", convert.GIVE_CROPS)
    options.bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.bundle.parent, prefix=".export-") as folder:
        exact = replace(options, bundle=Path(folder) / "fp32")
        export_ldla(exact)
        return convert.convert(
            convert.Options(
                exact.bundle,
                options.bundle,
                "int8",
                crops,
                beside=True,
                keep_fp32=options.keep_fp32,
                replace=options.replace,
                progress=options.progress,
            )
        )


def export_ldla(options: Options) -> Manifest:
    """Write the bundle and return its manifest; see the module and the command line's help.

    Raises
    ------
    CheckpointError
        The checkpoint is incomplete, damaged or of another kind.
    ExportError, ParityError
        A component can not be exported, or computes something else than torch.
    UsageError, OutputError
        An option makes no sense, or the bundle can not be written.
    """
    from . import parity
    from .bundle_writer import new_bundle
    from .checkpoint import Checkpoint, check_module
    from .components import check_kept, progress, tool_versions

    checkpoint = Checkpoint.open(options.checkpoint)
    settings = read_settings(checkpoint, options)
    plans = make_plans(checkpoint, settings, options)
    for plan in plans:
        check_module(plan.folder, plan.classes)
    names = [name for plan in plans for name in plan.components]
    check_kept(options.keep_fp32, names)
    provenance = stated_provenance(checkpoint, options)
    licenses = _licenses(checkpoint, options, provenance)
    name, version = _name_and_version(checkpoint, options, settings)
    with new_bundle(options.bundle, options.replace) as writer:
        components: dict[str, Component] = {}
        differences: dict[str, list[parity.Difference]] = {}
        for plan in progress(plans, lambda plan: ", ".join(plan.components), options.progress):
            _export_plan(plan, options, writer, components, differences)
        for path in checkpoint.tokenizer_files() if checkpoint.has_text else ():
            writer.copy(path, f"tokenizer/{path.name}")
        writer.write_text("LICENSES.md", licenses)
        return writer.finish(
            Manifest(
                kind="zone-aging",
                name=name,
                version=version,
                components=components,
                settings=settings,
                provenance={**provenance, "parity": parity.as_json(differences), "tools": tool_versions()},
            )
        )


def read_settings(checkpoint: Checkpoint, options: Options) -> ZoneAgingSettings:
    """The manifest's settings, from the checkpoint's configuration files, before any weight is read."""
    from agesdk.faces.zones import ZONE_KINDS

    from .bundle_writer import read_json_object
    from .checkpoint import read_config

    index = checkpoint.index
    mode = index.get("mode", "plain")
    zones = list(index.get("zones", ZONE_KINDS))
    vae = read_config(checkpoint.folder / "vae")
    if checkpoint.has_text:
        condition: dict[str, Any] = {
            "type": "text",
            "templates": index.get("templates", LDLA_TEMPLATES),
            "zone_names": {zone: zone.replace("_", " ") for zone in zones} | index.get("zone_names", {}),
        }
    else:
        encoder = read_config(checkpoint.folder / "condition_encoder")
        condition = {"type": "learned", "zones": zones, "ancestries": encoder.get("ancestries", [])}
    defaults = CONDITIONED_DEFAULTS if mode == "conditioned" else PAPER_DEFAULTS
    document: dict[str, Any] = {
        "mode": mode,
        "paste": index.get("paste", "residual" if mode == "conditioned" else "blend"),
        "crop_size": index.get("crop_size", 128),
        "latent_channels": vae.get("latent_channels", 4),
        "vae_scale_factor": 2 ** (len(vae["block_out_channels"]) - 1) if "block_out_channels" in vae else 8,
        "scheduler": _scheduler(checkpoint),
        "defaults": {name: getattr(defaults, name) for name in ZoneAgingDefaults.__dataclass_fields__}
        | index.get("defaults", {}),
        "condition": condition,
        "zones": zones,
        **{key: index[key] for key in (*PASTE_SETTINGS, "calibration", "score_calibration") if key in index},
    }
    if options.calibration is not None:
        curves = read_json_object(options.calibration, "calibration")
        unknown = sorted(set(curves) - {"calibration", "score_calibration"})
        if unknown:
            raise UsageError(
                f"{options.calibration} has the unknown key {unknown[0]!r}",
                "",
                "Use calibration, score_calibration",
            )
        document.update(curves)
    if options.refiner is not None:
        if not checkpoint.has_text:
            raise UsageError(
                "A refiner needs a checkpoint with a text encoder", "it is conditioned by a prompt"
            )
        document["refiner"] = {
            "component": "refiner_denoise",
            "strength": options.refiner_strength,
            "steps": options.refiner_steps,
            "prompt": REFINER_PROMPT,
            "guidance_scale": 1.0,
        }
    try:
        return decode(ZoneAgingSettings, document)
    except Invalid as error:
        source = (
            options.calibration if "calibration" in error.what and options.calibration else checkpoint.folder
        )
        raise CheckpointError(
            f"The settings of {source} are not valid: {error.what}", error.why, error.fix
        ) from None


def make_plans(checkpoint: Checkpoint, settings: ZoneAgingSettings, options: Options) -> list[Plan]:
    """The networks to load in order, and the graphs to make of each."""
    from . import graphs
    from .checkpoint import EXPECTED

    channels, factor = settings.latent_channels, settings.vae_scale_factor
    latent = settings.crop_size // factor
    zones = len(
        settings.condition.zones if isinstance(settings.condition, LearnedCondition) else settings.zones
    )
    conditioned = settings.mode == "conditioned"
    sides = (
        settings.crop_size,
        *((settings.crop_size,) * 2 if options.refiner is None else REFINER_SIDES[1:]),
    )
    condition = "text_encoder" if checkpoint.has_text else "condition_encoder"

    def vae(module: Any, _: Made) -> dict[str, graphs.Graph]:
        return {
            "vae_encoder": graphs.VaeEncoder(module, channels, factor, sides),
            "vae_decoder": graphs.VaeDecoder(module, channels, factor, sides),
        }

    def text_encoder(module: Any, _: Made) -> dict[str, graphs.Graph]:
        return {"text_encoder": graphs.TextEncoder(module)}

    def condition_encoder(module: Any, _: Made) -> dict[str, graphs.Graph]:
        return {"condition_encoder": graphs.ConditionEncoder(module, zones)}

    def score_net(module: Any, _: Made) -> dict[str, graphs.Graph]:
        return {"score_net": graphs.ScoreNet(module, channels, latent, zones)}

    def denoise(module: Any, made: Made) -> dict[str, graphs.Graph]:
        hidden = made[condition].outputs[0].shape[1:]
        return {"denoise": graphs.Denoise(module, channels, (latent,) * 3, hidden, conditioned)}

    def refiner(module: Any, made: Made) -> dict[str, graphs.Graph]:
        hidden = made[condition].outputs[0].shape[1:]
        low, usual, high = (side // factor for side in REFINER_SIDES)
        return {
            "refiner_denoise": graphs.Denoise(module, channels, (low, usual, high), hidden, conditioned=False)
        }

    folder = checkpoint.folder
    plans = [
        Plan(folder / "vae", EXPECTED["vae"], ("vae_encoder", "vae_decoder"), vae),
        Plan(
            folder / condition,
            EXPECTED[condition],
            (condition,),
            text_encoder if checkpoint.has_text else condition_encoder,
        ),
        Plan(options.score_net or folder / "score_net", EXPECTED["score_net"], ("score_net",), score_net),
        Plan(folder / "unet", EXPECTED["unet"], ("denoise",), denoise),
    ]
    if options.refiner is not None:
        inside = options.refiner / "unet"
        unet = inside if inside.is_dir() else options.refiner
        plans.append(Plan(unet, ("UNet2DConditionModel",), ("refiner_denoise",), refiner))
    return plans


def _export_plan(
    plan: Plan,
    options: Options,
    writer: BundleWriter,
    components: dict[str, Component],
    differences: dict[str, list[Difference]],
) -> None:
    from .checkpoint import load_module
    from .components import export_graphs
    from .storage import round_to_half

    module = load_module(plan.folder, plan.classes)
    if options.half_storage:
        round_to_half(module)
    graphs = plan.graphs(module, components)
    del module
    export_graphs(
        graphs,
        options.precision,
        options.keep_fp32,
        writer,
        components,
        differences,
        half_storage=options.half_storage,
    )


def stated_provenance(checkpoint: Checkpoint, options: Options) -> dict[str, Any]:
    """What the checkpoint and the user say: recipe, data, licences, measured quality."""
    from .bundle_writer import read_json_object

    provenance: dict[str, Any] = {
        "recipe": "not stated by the checkpoint",
        "data": "not stated by the checkpoint",
        "licences": "not stated by the checkpoint",
        **checkpoint.index.get("provenance", {}),
    }
    if options.quality is not None:
        provenance["quality"] = read_json_object(options.quality, "quality")
    return provenance


def _scheduler(checkpoint: Checkpoint) -> dict[str, Any]:
    """The manifest's scheduler settings from diffusers' ``scheduler_config.json``."""
    config = checkpoint.scheduler
    path = checkpoint.folder / "scheduler" / "scheduler_config.json"
    name = str(config.get("_class_name"))
    if name not in SAMPLERS:
        raise CheckpointError(
            f"{path} names the scheduler {name}", f"Schedulers that are supported: {', '.join(SAMPLERS)}"
        )
    for key, wanted in (("trained_betas", None), ("rescale_betas_zero_snr", False), ("thresholding", False)):
        if config.get(key, wanted) not in (None, wanted):
            raise CheckpointError(f"{path} sets {key}", "the runtime's samplers do not have it")
    known = {key: config[key] for key in SchedulerSettings.__dataclass_fields__ if key in config}
    return {"sampler": SAMPLERS[name], **known}


def _licenses(checkpoint: Checkpoint, options: Options, provenance: Mapping[str, Any]) -> str:
    """The text of LICENSES.md: the user's, else the checkpoint's, else what the provenance says."""
    from .components import licence_text

    if options.licenses is not None:
        return licence_text(options.licenses)
    for name in ("LICENSES.md", "LICENSE.md", "LICENSE.txt", "LICENSE"):
        if (checkpoint.folder / name).is_file():
            return (checkpoint.folder / name).read_text(encoding="utf-8", errors="replace")
    stated = provenance["licences"]
    lines = stated if isinstance(stated, list) else [stated]
    return "# Licences\n\nOf the weights and the data they were trained on:\n\n" + "".join(
        f"- {line if isinstance(line, str) else json.dumps(line)}\n" for line in lines
    )


def _name_and_version(
    checkpoint: Checkpoint, options: Options, settings: ZoneAgingSettings
) -> tuple[str, str]:
    folder = re.sub(r"[^A-Za-z0-9._ -]+", "-", checkpoint.folder.resolve().name).strip("-._ ")
    name = str(options.name or checkpoint.index.get("name") or folder or "zone-aging")
    version = str(options.version or checkpoint.index.get("version") or "1")
    try:
        Manifest("zone-aging", name, version, components={}, settings=replace(settings, refiner=None))
    except Invalid as error:
        raise UsageError(error.what, error.why, "Give another with --name or --version") from None
    return name, version
