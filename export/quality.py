"""``python -m export quality BUNDLE FILE``: write measured quality into a finished bundle's manifest.

Quality is measured on the bundle that ships, so it is known only when the bundle exists.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any


def register(subparsers: Any) -> None:
    """Add the ``quality`` command."""
    parser = subparsers.add_parser(
        "quality",
        help="write measured quality into a bundle's manifest",
        description="Write measured quality into the provenance of a finished bundle. Graphs stay.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle folder")
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="JSON object, such as quality.json of benchmarks quality-zone"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command; 0 when the manifest is written.

    Raises
    ------
    BundleError
        Not a bundle, or altered.
    UsageError
        The file is not a JSON object.
    """
    from agesdk.bundle import Bundle, write_manifest

    from .bundle_writer import read_json_object

    bundle = Bundle.open(arguments.bundle, verify=True)
    quality = read_json_object(arguments.file, "quality")
    manifest = bundle.manifest
    write_manifest(
        bundle.path, replace(manifest, provenance={**manifest.provenance, "quality": quality}, files=())
    )
    return 0
