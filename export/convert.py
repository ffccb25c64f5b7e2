"""``python -m export convert BUNDLE OUT --precision fp16|int8``: a bundle's components in another precision.

It works from a finished float32 bundle, so it needs no checkpoint. With ``--beside`` OUT carries both
precisions of what was converted, and the runtime takes the better one for the device.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agesdk.bundle import Bundle, Component, Manifest, Variant
from agesdk.errors import UsageError
from agesdk.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from .bundle_writer import BundleWriter

logger = logging.getLogger(__name__)

NO_CROPS = "int8 is calibrated on real crops"
GIVE_CROPS = "Give --crops: the output of python -m training prepare-zones"


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes
    ----------
    crops:
        Folder of ``python -m training prepare-zones``; int8 is calibrated and judged on it.
    keep_fp32:
        Components to leave as they are.
    min_psnr:
        dB between the crops that the int8 and the float32 graphs age: layers are left in float32 until it is
        reached.
    search:
        Leave layers out by measurement; without it all are quantised, whatever the result.
    """

    bundle: Path
    target: Path
    precision: Literal["fp16", "int8"]
    crops: Path | None = None
    beside: bool = False
    keep_fp32: tuple[str, ...] = ()
    min_psnr: float = 35.0
    search: bool = True
    replace: bool = False
    progress: bool = True


@dataclass(frozen=True)
class Converted:
    """What a conversion made of one component: the files, in its folder, and what was measured."""

    files: tuple[str, ...]
    preferred_on: Literal["cpu", "gpu"] | None


def register(subparsers: Any) -> None:
    """Add the ``convert`` command."""
    parser = subparsers.add_parser(
        "convert",
        help="a bundle in half precision, or in 8 bits for CPUs",
        description="Convert the float32 components of a bundle to another precision and measure the result.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle folder with float32 components")
    parser.add_argument("target", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument("--precision", choices=("fp16", "int8"), required=True)
    parser.add_argument(
        "--crops",
        type=Path,
        metavar="ZONES_DIR",
        help="real crops to calibrate int8 on: the output of python -m training prepare-zones",
    )
    parser.add_argument("--beside", action="store_true", help="keep the float32 components beside")
    parser.add_argument(
        "--keep-fp32", action="append", default=[], metavar="COMPONENT", help="leave a component in float32"
    )
    parser.add_argument(
        "--min-psnr",
        type=float,
        default=Options.min_psnr,
        metavar="DB",
        help="of int8's aged crops against float32's; sensitive layers stay float32 (default %(default)s)",
    )
    parser.add_argument(
        "--no-search", dest="search", action="store_false", help="int8: quantise every layer, at any quality"
    )
    parser.add_argument("--replace", action="store_true", help="replace OUT if it is a bundle")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command; 0 when the bundle is written."""
    values = {key: value for key, value in vars(arguments).items() if key in Options.__dataclass_fields__}
    convert(Options(**{**values, "keep_fp32": tuple(arguments.keep_fp32), "progress": not arguments.quiet}))
    return 0


def convert(options: Options) -> Manifest:
    """Write the converted bundle and return its manifest; see the command line's help.

    Raises
    ------
    BundleError
        The source is no bundle, or was altered.
    UsageError
        Nothing in it can be converted so, or the crops are missing.
    ExportError
        A component can not be converted, or int8 does not reach the wanted quality.
    """
    from .bundle_writer import new_bundle

    source = Bundle.open(options.bundle)
    _check(source, options)
    if options.precision == "int8" and options.crops is None:
        raise UsageError(NO_CROPS, "", GIVE_CROPS)
    with new_bundle(options.target, options.replace) as writer:
        if options.precision == "fp16":
            made, measured = _to_half(source, options, writer)
        else:
            from .convert_int8 import to_int8

            made, measured = to_int8(source, options, writer)
        manifest = source.manifest
        components = {
            name: _with_variant(component, options, made[name], writer) if name in made else component
            for name, component in manifest.components.items()
        }
        written = {path.relative_to(writer.folder).as_posix() for path in writer.folder.rglob("*")}
        dropped = _graph_files(manifest) - _graph_files(replace(manifest, components=components, files=()))
        for entry in manifest.files:
            if entry.path not in dropped | written | {MANIFEST_NAME}:
                writer.copy(source.file_path(entry.path), entry.path)
        components = {name: _with_tolerances(item, options, writer) for name, item in components.items()}
        conversions = {**manifest.provenance.get("conversions", {}), options.precision: measured}
        provenance = {**manifest.provenance, "conversions": conversions}
        return writer.finish(replace(manifest, components=components, provenance=provenance, files=()))


def graph_name(component: str, precision: str) -> str:
    """Folder of a converted graph below ``components/``."""
    return f"{component}/{precision}"


def float32_components(source: Bundle, options: Options) -> list[str]:
    """The components that are float32 and not to be kept."""
    return [
        name
        for name, component in source.manifest.components.items()
        if component.precision == "fp32" and name not in options.keep_fp32
    ]


def _check(source: Bundle, options: Options) -> None:
    names = list(source.manifest.components)
    for name in options.keep_fp32:
        if name not in names:
            raise UsageError(
                f"--keep-fp32 {name} names no component", f"The components are {', '.join(names)}"
            )
    if not float32_components(source, options):
        raise UsageError(
            f"{source.path} has no float32 component to convert", "", "Convert the bundle that was exported"
        )
    for name, component in source.manifest.components.items():
        if options.precision in component.variants:
            raise UsageError(f"{source.path} has {name} in {options.precision} already")


def _to_half(
    source: Bundle, options: Options, writer: BundleWriter
) -> tuple[dict[str, Converted], dict[str, Any]]:
    import onnx_ir as ir
    from onnx_ir.passes.common import ShapeInferencePass
    from tqdm import tqdm

    from .islands import choose, recorded_feeds
    from .onnx_export import MAX_SINGLE_FILE_BYTES, save_model
    from .precision import ISLANDS, to_half

    feeds = recorded_feeds(source, options.crops)
    made: dict[str, Converted] = {}
    measured: dict[str, Any] = {}
    for name in tqdm(float32_components(source, options), unit="component", disable=not options.progress):
        path = source.component_path(name)
        islands, measured[name] = ISLANDS, {"islands": sorted(ISLANDS)}
        if path.stat().st_size <= MAX_SINGLE_FILE_BYTES and len(source.component(name).files) == 1:
            best = choose(path, name, feeds[name])
            islands = frozenset(best.islands)
            errors = {
                "max_error": float(f"{best.max_error:.3g}"),
                "mean_error": float(f"{best.mean_error:.3g}"),
            }
            measured[name] = {"islands": sorted(islands), "casts": best.casts, **errors}
        model = ir.load(path)
        ShapeInferencePass()(model)
        to_half(model, islands)
        folder = writer.component_folder(graph_name(name, "fp16"))
        made[name] = Converted(save_model(model, folder, name, "fp16"), "gpu")
    return made, measured


def _with_variant(
    component: Component, options: Options, converted: Converted, writer: BundleWriter
) -> Component:
    files = writer.component_files(graph_name(component.name, options.precision), converted.files)
    variant = Variant(files, preferred_on=converted.preferred_on)
    both = replace(component, variants={**component.variants, options.precision: variant})
    if options.beside:
        return both
    alone = both.at(options.precision)
    others = {key: value for key, value in alone.variants.items() if key != "fp32"}
    return replace(alone, variants=others)


def _with_tolerances(component: Component, options: Options, writer: BundleWriter) -> Component:
    """The component with measured tolerances where it has none; of int8 the golden is written first."""
    import numpy as np

    from . import tolerances

    for precision in component.precisions:
        view = component.at(precision)
        if view.tolerances:
            continue
        path = writer.folder / view.files[0]
        with np.load(writer.folder / f"golden/{component.name}.npz", allow_pickle=False) as arrays:
            golden = dict(arrays)
        if precision == "int8":
            feeds = {key.removeprefix("input."): a for key, a in golden.items() if key.startswith("input.")}
            own = {f"output.{name}": array for name, array in tolerances.run(path, feeds).items()}
            writer.write_golden(f"{component.name}.int8", own)
            golden |= own
        measured = tolerances.measure(path, precision, golden)
        if precision == component.precision:
            component = replace(component, tolerances=measured)
        else:
            variant = replace(component.variants[precision], tolerances=measured)
            component = replace(component, variants={**component.variants, precision: variant})
    return component


def _graph_files(manifest: Manifest) -> set[str]:
    return {
        path
        for component in manifest.components.values()
        for files in (component.files, *(variant.files for variant in component.variants.values()))
        for path in files
    }
