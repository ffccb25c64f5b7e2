"""``agesdk bundle info|verify``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from agesdk.cli import common

if TYPE_CHECKING:
    from agesdk.bundle import Bundle, TensorSpec


def add_parser(commands: common.Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("bundle", help="look into a bundle, or check it")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    for name, run, text in (
        ("info", info, "print what a bundle holds"),
        ("verify", verify, "check every file of a bundle against its manifest"),
    ):
        action = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
        action.add_argument(
            "path", metavar="PATH", nargs="?", help="bundle folder (default: the embedded zone-aging)"
        )
        common.add_output_options(action)
        action.set_defaults(run=run)


def info(options: argparse.Namespace) -> int:
    """Print kind, version, components, settings and provenance."""
    from agesdk.bundle import Bundle
    from agesdk.strict_json import encode

    bundle = Bundle.open(options.path, verify=False)
    manifest = bundle.manifest
    size = sum(entry.size for entry in manifest.files)
    common.say(
        options, f"{bundle.path}: {manifest.name} {manifest.version}, {manifest.kind}, {size / 1e6:.1f} MB"
    )
    for component in manifest.components.values():
        preferred = {key: variant.preferred_on for key, variant in component.variants.items()}
        precisions = [
            key + (f", preferred on a {preferred[key]}" if preferred.get(key) else "")
            for key in component.precisions
        ]
        common.say(options, f"\n{component.name} ({'; '.join(precisions)})")
        for arrow, tensors in (("<-", component.inputs), ("->", component.outputs)):
            for tensor in tensors:
                common.say(options, f"  {arrow} {_signature(tensor)}")
        for symbol, (low, best, high) in component.profile.items():
            common.say(options, f"     {symbol}: {low} to {high}, best {best}")
    for title, values in (("settings", encode(manifest.settings)), ("provenance", manifest.provenance)):
        common.say(options, f"\n{title}")
        for key, value in values.items():
            common.say(options, f"  {key}: {_short(value)}")
    common.say_json(options, {"path": str(bundle.path), "size": size, "manifest": _manifest_object(bundle)})
    return 0


def verify(options: argparse.Namespace) -> int:
    """Check every file; BundleError tells the first that is wrong."""
    from agesdk.bundle import Bundle

    bundle = Bundle.open(options.path, verify=True)
    unlisted = bundle.unlisted_files()
    common.say(options, f"{bundle.path}: {len(bundle.manifest.files)} files verified")
    for path in unlisted:
        common.say(options, f"not listed in the manifest, never opened: {path}")
    common.say_json(
        options, {"path": str(bundle.path), "files": len(bundle.manifest.files), "unlisted": unlisted}
    )
    return 0


def _signature(tensor: TensorSpec) -> str:
    return f"{tensor.name}: {tensor.dtype} [{', '.join(str(axis) for axis in tensor.shape)}]"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _manifest_object(bundle: Bundle) -> Any:
    import json

    from agesdk.bundle import manifest_to_json

    return json.loads(manifest_to_json(bundle.manifest))
