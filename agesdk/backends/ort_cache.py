"""Optimised graphs of large components, kept between runs, for the CPU.

Most of the time that ONNX Runtime takes to open a large graph goes into laying out its convolutions' weights
for this processor. The result can be written down and opened as it is: a 1.26 GB UNet opens in 0.6 instead of
2.1 processor seconds. It costs the component's size on disk, and small components gain nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from agesdk.bundle import Bundle
from agesdk.cache_dir import cache_folder
from agesdk.cpu import cpu_features
from agesdk.errors import AgeSDKError

SMALLEST = 256 * 2**20
"""Bytes of a component from which on its optimised graph is kept."""

_GRAPH = "model.onnx"

logger = logging.getLogger(__name__)


def cached_graph(
    bundle: Bundle, component: str, ort_version: str, save: Callable[[Path], None], smallest: int = SMALLEST
) -> Path | None:
    """The optimised graph of a component, made by ``save`` (to a path) if it is not there.

    None where it is not worth it, or can not be kept: then the component is opened as it is. The key holds
    the SHA-256 of the component's files, ONNX Runtime's version, and what the processor can do, on which the
    layout depends.
    """
    files = bundle.component(component).files
    entries = [entry for entry in bundle.manifest.files if entry.path in files]
    size = sum(entry.size for entry in entries)
    if size < smallest:
        return None
    parts = [entry.sha256 for entry in entries], ort_version, platform.machine(), cpu_features()
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    try:
        folder = cache_folder("onnxruntime", "cpu") / f"{component}-{key}"
        if (folder / _GRAPH).is_file():
            os.utime(folder)  # for a cleaner that removes what was not used for long
            return folder / _GRAPH
        if shutil.disk_usage(folder.parent).free < 2 * size:
            logger.info("too little disk space to keep the optimised graph of %s", component)
            return None
        return _make(folder, save)
    except (OSError, AgeSDKError) as error:
        logger.warning("the optimised graph of %s can not be kept: %s", component, error)
        return None


def forget(graph: Path) -> None:
    """Remove a cached graph that does not open."""
    shutil.rmtree(graph.parent, ignore_errors=True)


def _make(folder: Path, save: Callable[[Path], None]) -> Path:
    """Write beside and rename, so that no process ever sees half of it; the first of two writers wins."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
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
