"""``python -m engines inspect``: what an engine takes and gives, what it was built from, and its layers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from agesdk import strict_json
from agesdk.backends.base import format_shape
from agesdk.backends.trt_library import LogKeeper, failure, import_library
from agesdk.engine_cache import CacheEntry, EngineCache, read_entry
from agesdk.engine_key import TITLES, show_profile
from agesdk.errors import AgeSDKError, BackendError
from agesdk.strict_json import Invalid


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("inspect", help="what is in an engine", description=__doc__)
    parser.add_argument("engine", type=Path, help="an engine file of the cache, or its sidecar")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print; 1 if the engine file is not the one its sidecar describes."""
    entry = find_entry(arguments.engine)
    intact = EngineCache(entry.sidecar.parent).is_intact(entry)
    fused: list[str] = []
    reason = ""
    if intact:
        try:
            fused = fused_layers(entry)
        except AgeSDKError as error:
            reason = str(error)
    if arguments.json:
        body = {
            "intact": intact,
            "fused_layers": fused,
            "why_not": reason,
            **strict_json.encode(entry.record),
        }
        print(json.dumps(body))
    else:
        _print(entry, intact, fused, reason)
    return 0 if intact else 1


def find_entry(path: Path) -> CacheEntry:
    """The cache entry of an engine file or of a sidecar.

    Raises
    ------
    BackendError
        There is no such file, or no sidecar names it.
    """
    if not path.is_file():
        raise BackendError(
            f"{path} is not a file", "", "`python -m engines list` shows the engines there are"
        )
    if path.suffix == ".json":
        try:
            return read_entry(path)
        except Invalid as error:
            raise BackendError(f"{path} is not the sidecar of an engine", str(error)) from None
    for entry in EngineCache(path.resolve().parent).entries():
        if entry.record.file == path.name:
            return entry
    raise BackendError(
        f"No sidecar in {path.resolve().parent} names {path.name}",
        "it is no engine of a cache, or a killed build left it",
        "Build it with `python -m engines build`",
    )


def fused_layers(entry: CacheEntry) -> list[str]:
    """The layers as TensorRT will run them. It tells them only where the engine can be loaded, on its GPU."""
    library = import_library(entry.record.key.runtime)
    log = LogKeeper(library)
    runtime: Any = library.api.Runtime(log.sink)
    engine = runtime.deserialize_cuda_engine(entry.engine.read_bytes())
    if engine is None:
        raise failure("The engine does not load here", log.errors)
    inspector = engine.create_engine_inspector()
    layout = library.api.LayerInformationFormat.ONELINE
    return [inspector.get_layer_information(index, layout).strip() for index in range(engine.num_layers)]


def _print(entry: CacheEntry, intact: bool, fused: list[str], reason: str) -> None:
    record, key = entry.record, entry.record.key
    print(f"{record.bundle} {record.component}, {record.precision}, {record.size / 1e6:.1f} MB")
    builder = f"{TITLES[key.runtime]} {key.runtime_version}"
    print(f"built {record.built} in {record.seconds} s by {builder} on {key.platform}")
    print(f"for {key.gpu or 'any GPU'} of compute capability {', '.join(key.compute_capabilities)}")
    if key.driver:
        print(f"with a driver for CUDA {key.driver}")
    print(f"graph {key.graph}")
    for arrow, tensors in (("<-", record.inputs), ("->", record.outputs)):
        for tensor in tensors:
            print(f"  {arrow} {tensor.name} {tensor.dtype} {format_shape(tensor.shape)}")
    for profile in key.profiles:
        print(f"  profile {show_profile(profile)}")
    print("layers before fusion: " + ", ".join(f"{count} {name}" for name, count in record.layers.items()))
    if fused:
        print("layers:")
        for layer in fused:
            print(f"  {layer}")
    elif intact:
        print(f"layers as they run are told on the GPU only. {reason}")
    print("file: as built" if intact else "file: DAMAGED, it is not the one that was built; build it again")
