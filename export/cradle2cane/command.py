"""``python -m export cradle2cane MODELS_DIR BUNDLE``: a lifespan-aging bundle from the published model tree.

Networks are handled one after the other, as in `export.ldla`: load, record torch's outputs, export, forget,
compare ONNX Runtime with the record. The UNet is never in memory twice.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agesdk.bundle import (
    AdaptiveNoiseSettings,
    Component,
    LifespanAgingSettings,
    Manifest,
    SchedulerSettings,
    SvrSettings,
)
from agesdk.strict_json import Invalid, decode
from export.errors import CheckpointError

if TYPE_CHECKING:
    from export.bundle_writer import BundleWriter
    from export.onnx_export import Precision
    from export.parity import Difference

    from .plans import Plan
    from .source import Source

logger = logging.getLogger("export.cradle2cane")

PROMPT = "a face image of a {age} years old {gender}"
GENDERS = ("female", "male")
FOUR_IMAGE_STRENGTHS = (0.25, 0.5, 0.75)
"""First passes whose pictures join in the four-image SVR. The published trainer drops the list from the
hyperparameters; these are AdaNI's three strengths."""


@dataclass(frozen=True)
class Options:
    """What the command line says. ``ages`` is inclusive."""

    models: Path
    bundle: Path
    precision: Precision = "fp32"
    lora: Literal["switch", "fused"] = "switch"
    text: Literal["tables", "graphs", "both"] = "tables"
    ages: tuple[int, int] = (1, 100)
    clip_pixel_range: Literal["0..1", "0..255"] = "0..1"
    keep_fp32: tuple[str, ...] = ()
    licenses: Path | None = None
    name: str = "cradle2cane"
    version: str = "1"
    replace: bool = False
    progress: bool = True

    @property
    def tables(self) -> bool:
        return self.text in ("tables", "both")

    @property
    def text_graphs(self) -> bool:
        return self.text in ("graphs", "both")


def register(subparsers: Any) -> None:
    """Add the ``cradle2cane`` command."""
    parser = subparsers.add_parser(
        "cradle2cane",
        help="Cradle2Cane's published model folder to a lifespan-aging bundle",
        description="Export Cradle2Cane's published models to a bundle, and check all of it against torch.",
    )
    parser.add_argument(
        "models", type=Path, metavar="MODELS_DIR", help="folder with sdxl-turbo/, ..., Cradle2Cane/"
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder to write; must not exist")
    parser.add_argument(
        "--precision", choices=("fp32", "fp16"), default="fp32", help="of the networks (default fp32)"
    )
    parser.add_argument(
        "--lora",
        choices=("switch", "fused"),
        default="switch",
        help="one UNet with the LoRA behind an input, or two UNets (default switch)",
    )
    parser.add_argument(
        "--text",
        choices=("tables", "graphs", "both"),
        default="tables",
        help="prompt embeddings as tables, the text encoders, or both (default tables)",
    )
    parser.add_argument(
        "--ages", type=age_range, default=(1, 100), metavar="A:B", help="ages of the tables (default 1:100)"
    )
    parser.add_argument(
        "--clip-pixel-range",
        choices=("0..1", "0..255"),
        default="0..1",
        help="pixels that CLIP sees: as in training, or as in the published inference script (default 0..1)",
    )
    parser.add_argument(
        "--keep-fp32", action="append", default=[], metavar="COMPONENT", help="leave a component in float32"
    )
    parser.add_argument("--licenses", type=Path, metavar="FILE", help="text that becomes LICENSES.md")
    parser.add_argument("--name", default=Options.name, help="the bundle's name (default %(default)s)")
    parser.add_argument(
        "--version", default=Options.version, help="the bundle's version (default %(default)s)"
    )
    parser.add_argument("--replace", action="store_true", help="replace BUNDLE if it is a bundle")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)


def age_range(text: str) -> tuple[int, int]:
    """``"1:100"`` to ``(1, 100)``."""
    match = re.fullmatch(r"(\d{1,3}):(\d{1,3})", text.strip())
    if not match or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not YOUNGEST:OLDEST, such as 1:100")
    return int(match[1]), int(match[2])


def run(arguments: argparse.Namespace) -> int:
    """The command; 0 when the bundle is written."""
    values = {key: value for key, value in vars(arguments).items() if key in Options.__dataclass_fields__}
    export_cradle2cane(
        Options(**{**values, "keep_fp32": tuple(arguments.keep_fp32), "progress": not arguments.quiet})
    )
    return 0


def export_cradle2cane(options: Options) -> Manifest:
    """Write the bundle and return its manifest; see the module and the command line's help.

    Raises
    ------
    CheckpointError
        The model tree is incomplete, damaged, or of a kind that is not supported.
    ExportError, ParityError
        A component can not be exported, or computes something else than torch.
    UsageError, OutputError
        An option makes no sense, or the bundle can not be written.
    """
    from export import parity
    from export.bundle_writer import new_bundle
    from export.components import check_kept, progress, tool_versions

    from .plans import make_plans
    from .source import Source

    source = Source.open(options.models)
    settings = make_settings(source, options)
    plans = make_plans(source, settings, options)
    names = [name for plan in plans for name in plan.components]
    check_kept(options.keep_fp32, names)
    licenses = _licenses(options)
    with new_bundle(options.bundle, options.replace) as writer:
        components: dict[str, Component] = {}
        differences: dict[str, list[Difference]] = {}
        tables: dict[str, Any] = {}
        for plan in progress(plans, lambda plan: plan.what, options.progress):
            export_plan(plan, options, writer, components, differences, tables)
        if options.tables:
            from .tables import write_tables

            write_tables(writer, tables, options)
        if options.text_graphs:
            _copy_tokenizers(source, writer)
        writer.write_text("LICENSES.md", licenses)
        return writer.finish(
            Manifest(
                kind="lifespan-aging",
                name=options.name,
                version=options.version,
                components=components,
                settings=settings,
                provenance={
                    "recipe": "Cradle2Cane (NeurIPS 2025), published checkpoint",
                    "hparams": _plain(source),
                    "parity": parity.as_json(differences),
                    "tools": tool_versions(),
                },
            )
        )


def make_settings(source: Source, options: Options) -> LifespanAgingSettings:
    """The manifest's settings, from the tree's configuration files, before any weight is read."""
    from export.checkpoint import read_config

    hparams = source.hparams
    vae = read_config(source.vae)
    mode: Literal["two_thresholds", "one_threshold", "fixed"] = "one_threshold"  # wins over the other switch
    if not hparams.one_threshold:
        mode = "two_thresholds" if hparams.use_adaptive_noise_inject else "fixed"
    face_feature: Literal["embedding", "hidden_state"] | None = None
    if hparams.use_arcface_project:
        face_feature = "hidden_state" if hparams.face_project_use_hidden_state else "embedding"
    svr = None
    if hparams.use_swr and face_feature is not None:
        strengths = (hparams.all_strength or FOUR_IMAGE_STRENGTHS) if hparams.use_four_image_swr else ()
        svr = SvrSettings(float(hparams.swr_alpha), float(hparams.swr_beta), tuple(strengths))
    clip: Any = hparams.clip_map_model if hparams.use_clip_project else None
    try:
        return LifespanAgingSettings(
            latent_channels=int(vae.get("latent_channels", 4)),
            scheduler=_scheduler(source),
            genders=GENDERS,
            prompt=PROMPT,
            ages=options.ages if options.tables else None,
            text_encoders=options.text_graphs,
            lora=options.lora,
            resolution=hparams.resolution,
            vae_scale_factor=2 ** (len(vae["block_out_channels"]) - 1),
            steps=hparams.infer_step,
            adaptive_noise=AdaptiveNoiseSettings(
                mode, float(hparams.t1), float(hparams.t2), fixed=float(hparams.aged_strength)
            ),
            identity_strength=float(hparams.id_strength),
            face_feature=face_feature,
            svr=svr,
            rotate_clip=clip,
            clip_pixel_range=options.clip_pixel_range,
        )
    except Invalid as error:
        raise CheckpointError(
            f"The hyperparameters of {source.folder} are not valid: {error.what}", error.why, error.fix
        ) from None


def export_plan(
    plan: Plan,
    options: Options,
    writer: BundleWriter,
    components: dict[str, Component],
    differences: dict[str, list[Difference]],
    tables: dict[str, Any],
) -> None:
    """Load one network, export its graphs, compute its tables, and compare the graphs with torch."""
    from export.components import export_graphs

    network = plan.load()
    if plan.tables is not None:
        tables.update(plan.tables(network))
    graphs = plan.graphs(network)
    del network
    export_graphs(graphs, options.precision, options.keep_fp32, writer, components, differences)


def _scheduler(source: Source) -> SchedulerSettings:
    """Euler ancestral with the tree's noise schedule."""
    from export.checkpoint import read_config_file

    path = source.turbo / "scheduler" / "scheduler_config.json"
    config = read_config_file(path)
    if config.get("_class_name") != "EulerAncestralDiscreteScheduler":
        raise CheckpointError(
            f"{path} names the scheduler {config.get('_class_name')}",
            "the published pipeline samples with EulerAncestralDiscreteScheduler",
        )
    if config.get("trained_betas") is not None:
        raise CheckpointError(f"{path} sets trained_betas", "the runtime's samplers do not have it")
    known = {key: config[key] for key in SchedulerSettings.__dataclass_fields__ if key in config}
    # Written for DDIM by Stability's own conversion; Euler ancestral has no such setting.
    known.pop("set_alpha_to_one", None)
    try:
        return decode(SchedulerSettings, {**known, "sampler": "euler_ancestral"})
    except Invalid as error:
        raise CheckpointError(f"{path} is not valid: {error.what}", error.why, error.fix) from None


def _copy_tokenizers(source: Source, writer: BundleWriter) -> None:
    from export.checkpoint import TOKENIZER_FILES

    for folder in ("tokenizer", "tokenizer_2"):
        for name in TOKENIZER_FILES:
            path = source.turbo / folder / name
            if path.is_file():
                writer.copy(path, f"{folder}/{name}")


def _licenses(options: Options) -> str:
    from export.components import licence_text

    if options.licenses is not None:
        return licence_text(options.licenses)
    return (
        "# Licences\n\nThe weights were converted from files that the user supplied; their licences are "
        "those of SDXL-turbo, sdxl-vae-fp16-fix, CLIP ViT-L/14, the ArcFace backbone and Cradle2Cane, as "
        "their publishers state them. The export does not know them.\n"
    )


def _plain(source: Source) -> dict[str, Any]:
    """The hyperparameters as JSON values."""
    from dataclasses import asdict

    plain: dict[str, Any] = json.loads(json.dumps(asdict(source.hparams)))
    return plain
