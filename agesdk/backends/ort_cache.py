"""Optimised graphs of large components, kept between runs, for the CPU.

Most of the time that ONNX Runtime takes to open a large graph goes into laying out its convolutions' weights
for this processor. The result can be written down and opened as it is: a 1.26 GB UNet opens in 0.6 instead of
2.1 processor seconds. It costs the component's size on disk, and small components gain nothing. Beside them
lies what ONNX Runtime's TensorRT providers keep; all of it together is kept within `DEFAULT_LIMIT`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agesdk.bundle import Bundle
from agesdk.cache_dir import DEFAULT_LIMIT, cache_folder, cache_root
from agesdk.cpu import cpu_features
from agesdk.errors import AgeSDKError

SMALLEST = 256 * 2**20
"""Bytes of a component from which on its optimised graph is kept."""

_GRAPH = "model.onnx"
_ROOT = "onnxruntime"
_TEMPORARY = ".tmp"
_ABANDONED_SECONDS = 86400
"""Nobody writes one graph for a day."""

logger = logging.getLogger(__name__)


def cached_graph(
    bundle: Bundle, component: str, ort_version: str, save: Callable[[Path], None]
) -> Path | None:
    """The optimised graph of a component, made by ``save`` (to a path) if it is not there.

    None where it is not worth it, or can not be kept: then the component is opened as it is. The key holds
    the SHA-256 of the component's files, ONNX Runtime's version, and what the processor can do, on which the
    layout depends.
    """
    files = bundle.component(component).files
    entries = [entry for entry in bundle.manifest.files if entry.path in files]
    size = sum(entry.size for entry in entries)
    if size < SMALLEST:
        return None
    parts = [entry.sha256 for entry in entries], ort_version, platform.machine(), cpu_features()
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    try:
        folder = cache_folder(_ROOT, "cpu") / f"{component}-{key}"
        if (folder / _GRAPH).is_file():
            os.utime(folder)  # for a cleaner that removes what was not used for long
            return folder / _GRAPH
        if shutil.disk_usage(folder.parent).free < 2 * size:
            logger.info("too little disk space to keep the optimised graph of %s", component)
            return None
        made = _make(folder, save)
        clean(DEFAULT_LIMIT, keep=folder)
        return made
    except (OSError, AgeSDKError) as error:
        logger.warning("the optimised graph of %s can not be kept: %s", component, error)
        return None


def forget(graph: Path) -> None:
    """Remove a cached graph that does not open."""
    shutil.rmtree(graph.parent, ignore_errors=True)


@dataclass(frozen=True)
class Kept:
    """What ONNX Runtime keeps for one graph: a folder or a file, its bytes, and when it was last used (what
    its TensorRT providers keep: when it was written)."""

    path: Path
    size: int
    used: float


def kept() -> list[Kept]:
    """Everything that is kept for any provider, the last used first; what is being written is left out."""
    return [item for item in _items() if item.path.suffix != _TEMPORARY]


def clean(limit: int | None = None, older_than: float | None = None, keep: Path | None = None) -> list[Kept]:
    """Remove what was not used for `older_than` seconds, then the least recently used until `limit` bytes are
    left, and what killed processes have left.

    Sessions that are open are not disturbed: the next one makes its graph anew.

    Parameters
    ----------
    keep:
        What stays whatever the limit.

    Returns
    -------
    list[Kept]
        What was removed, without leftovers.
    """
    removed = []
    items = kept()
    total = sum(item.size for item in items)
    for item in reversed(items):
        old = older_than is not None and time.time() - item.used > older_than
        if item.path != keep and (old or (limit is not None and total > limit)) and _remove(item.path):
            total -= item.size
            removed.append(item)
    for item in _items():
        if item.path.suffix == _TEMPORARY and time.time() - item.used > _ABANDONED_SECONDS:
            _remove(item.path)
    return removed


def _items() -> list[Kept]:
    found = []
    for path in (cache_root() / _ROOT).glob("*/*"):
        files = path.rglob("*") if path.is_dir() else (path,)
        try:
            size = sum(file.stat().st_size for file in files if file.is_file())
            found.append(Kept(path, size, path.stat().st_mtime))
        except FileNotFoundError:
            continue  # another process removes it
    return sorted(found, key=lambda item: item.used, reverse=True)


def _remove(path: Path) -> bool:
    """Whether it is gone: on Windows, what a session has open stays."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
    return not path.exists()


def _make(folder: Path, save: Callable[[Path], None]) -> Path:
    """Write beside and rename, so that no process ever sees half of it; the first of two writers wins."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{_TEMPORARY}")
    temporary.mkdir(mode=0o700)
    try:
        save(temporary / _GRAPH)
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / _GRAPH).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / _GRAPH
