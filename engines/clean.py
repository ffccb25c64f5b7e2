"""``python -m engines clean``: remove engines and optimised graphs by age, by size, or all of them."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from agesdk.backends import ort_cache
from agesdk.engine_cache import CacheEntry, EngineCache
from agesdk.errors import UsageError

_BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "clean",
        help="remove engines and optimised graphs",
        description="Remove engines, what ONNX Runtime keeps of optimised graphs, and what killed processes "
        "have left. Without an option only the latter.",
    )
    parser.add_argument("--all", action="store_true", help="everything")
    parser.add_argument("--older-than", metavar="TIME", help="what was not used for so long: 12h, 30d, 8w")
    parser.add_argument(
        "--max-size",
        metavar="SIZE",
        help="the least recently used, until so much is left of engines, and of graphs: 500M, 20G",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="only this engine cache (default: all of the user's)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Remove, and say what."""
    limit = 0 if arguments.all else _parse_size(arguments.max_size)
    age = _parse_age(arguments.older_than)
    engines = _clean_engines(EngineCache(arguments.cache), limit, age)
    for entry in engines:
        print(f"removed {entry.record.file}")
    print(f"{len(engines)} engines removed, {sum(entry.size for entry in engines) / 1e6:.1f} MB")
    if arguments.cache is None:
        graphs = ort_cache.clean(limit, age)
        for graph in graphs:
            print(f"removed {graph.path.name}")
        print(f"{len(graphs)} optimised graphs removed, {sum(graph.size for graph in graphs) / 1e6:.1f} MB")
    return 0


def _clean_engines(cache: EngineCache, limit: int | None, age: float | None) -> list[CacheEntry]:
    if not cache.folder.is_dir():
        return []
    with cache.writing(
        on_wait=lambda holder: print(f"Waiting for {holder}, which builds.", file=sys.stderr)
    ) as writer:
        return writer.clean(limit, age)


def _parse_size(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f'The size "{text}" is not understood', "", "Write for instance 500M or 20G")
    return int(float(match.group(1)) * _BYTES[match.group(2).upper()])


def _parse_age(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text.strip())
    if match is None:
        raise UsageError(f'The time "{text}" is not understood', "", "Write for instance 12h, 30d or 8w")
    return float(match.group(1)) * _SECONDS[match.group(2)]
