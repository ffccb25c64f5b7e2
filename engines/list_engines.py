"""``python -m engines list``: what the engine cache holds."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from pathlib import Path

from agesdk import strict_json
from agesdk.engine_cache import CacheEntry, EngineCache
from agesdk.engine_key import TITLES


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("list", help="what the engine cache holds", description=__doc__)
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="engine cache (default: the user's)")
    parser.add_argument("--json", action="store_true", help="print the sidecars as one JSON array")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the engines, the last used first."""
    cache = EngineCache(arguments.cache)
    entries = cache.entries()
    if arguments.json:
        print(
            json.dumps([{"path": str(entry.engine), **strict_json.encode(entry.record)} for entry in entries])
        )
        return 0
    for entry in entries:
        print(describe(entry))
    total = sum(entry.size for entry in entries)
    print(f"{len(entries)} engines, {total / 1e6:.1f} MB in {cache.folder}")
    return 0


def describe(entry: CacheEntry) -> str:
    """One line about an engine."""
    record, key = entry.record, entry.record.key
    target = key.gpu or f"SM {', '.join(key.compute_capabilities)}"
    used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
    return (
        f"{record.bundle} {record.component} {record.precision}, {TITLES[key.runtime]} "
        f"{key.runtime_version}, {target}: {entry.size / 1e6:.1f} MB, used {used}, {record.file}"
    )
