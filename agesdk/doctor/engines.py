"""What the engine cache holds, and which of it can not be used on this machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agesdk.doctor.findings import Finding
from agesdk.engine_cache import CacheEntry, EngineCache
from agesdk.engine_key import TITLES, Difference, host_platform
from agesdk.errors import BackendError


@dataclass(frozen=True)
class EngineState:
    """Engines in the cache.

    Attributes
    ----------
    stale:
        Why by engine, for those that can not be used here: another release, platform or GPU, or a damaged
        file. Whether the graph is still that of its bundle shows when it is loaded.
    """

    folder: str
    count: int = 0
    megabytes: float = 0.0
    stale: dict[str, str] = field(default_factory=dict)
    finding: Finding | None = None


def look_at_engines(
    folder: Path | None, packages: Mapping[str, str], capabilities: Collection[str]
) -> EngineState:
    """The engines of a cache (None: the user's); nothing is created, and no file is read whole.

    Parameters
    ----------
    packages:
        Installed versions by package.
    capabilities:
        Compute capabilities of the GPUs; empty if they are not known.
    """
    cache = EngineCache(folder)
    try:
        entries = cache.entries()
    except BackendError as error:
        return EngineState(str(cache.folder), finding=Finding("warning", error.what, error.why, error.fix))
    stale = {
        f"{entry.record.bundle} {entry.record.component} {entry.record.precision} ({entry.record.file})": why
        for entry in entries
        if (why := _stale(entry, packages, capabilities))
    }
    size = round(sum(entry.size for entry in entries) / 1e6, 1)
    return EngineState(str(cache.folder), len(entries), size, stale, _finding(stale, len(entries)))


def _stale(entry: CacheEntry, packages: Mapping[str, str], capabilities: Collection[str]) -> str:
    """Why an engine can not be used here; "" if nothing speaks against it."""
    key = entry.record.key
    try:
        size = entry.engine.stat().st_size
    except OSError:
        return "its file is gone"
    if size != entry.record.size:
        return f"its file has {size} bytes, not {entry.record.size}"
    installed = packages.get(key.runtime, "not installed")
    if key.runtime_version != installed:
        return str(Difference(TITLES[key.runtime], key.runtime_version, installed))
    if key.platform != host_platform():
        return str(Difference("platform", key.platform, host_platform()))
    if capabilities and not set(capabilities) & set(key.compute_capabilities):
        built = ", ".join(key.compute_capabilities)
        return str(Difference("compute capability", built, ", ".join(sorted(capabilities))))
    return ""


def _finding(stale: Mapping[str, str], count: int) -> Finding | None:
    if not stale:
        return None
    name, why = next(iter(stale.items()))
    return Finding(
        "note",
        f"{len(stale)} of {count} engines in the cache can not be used here",
        f"{name}: {why}" + (f"; and {len(stale) - 1} more" if len(stale) > 1 else ""),
        "Build what is needed again (python -m engines build); `python -m engines clean --older-than 30d` "
        "removes what nothing uses",
    )
