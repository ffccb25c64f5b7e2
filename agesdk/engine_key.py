"""What a compiled engine was built from and for, and what a device asks for: the parts that must agree.

A TensorRT plan runs only with the release that built it, on the GPU it was built for, and is right only for
its graph. `differences` compares part by part, so that a refusal can name what changed.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from agesdk import strict_json
from agesdk.bundle import Bundle

Profile: TypeAlias = dict[str, tuple[int, int, int]]
"""Symbolic axis -> (min, opt, max)."""

RuntimeName = Literal["tensorrt", "tensorrt-rtx"]
TITLES: dict[str, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}

AHEAD_OF_TIME = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that TensorRT-RTX compiles for without such a GPU."""


@dataclass(frozen=True)
class EngineKey:
    """Everything that decides whether an engine can be used, and what is in it.

    Attributes
    ----------
    graph:
        SHA-256 over the graph and its external data, see `graph_hash`.
    bundle_profile:
        The component's profile as the manifest states it.
    profiles:
        The optimization profiles built into the engine; by default the manifest's, once.
    runtime, runtime_version:
        The library that built it; no other release loads it.
    platform:
        Operating system and processor, as `host_platform` names them.
    compute_capabilities:
        Those it was compiled for, ``"8.9"``.
    gpu, driver:
        Name and CUDA driver version of the GPU it was built on; None for one compiled ahead of time.
    optimization_level:
        The builder's, 0 to 5.
    """

    graph: str
    bundle_profile: Profile
    profiles: tuple[Profile, ...]
    runtime: RuntimeName
    runtime_version: str
    platform: str
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    driver: str | None
    optimization_level: int

    def digest(self) -> str:
        """Hex SHA-256 of all parts."""
        text = json.dumps(strict_json.encode(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class EngineRequest:
    """What a device needs of an engine; None leaves a choice of the build open.

    Attributes
    ----------
    bundle_path, bundle, component, precision:
        Where the bundle lies, its name in the manifest, the component, and which of its graphs.
    compute_capability, gpu, driver:
        Those of the device.
    profiles, optimization_level:
        None takes what was built last.
    """

    bundle_path: Path
    bundle: str
    component: str
    precision: str
    graph: str
    bundle_profile: Profile
    runtime: RuntimeName
    runtime_version: str
    platform: str
    compute_capability: str
    gpu: str
    driver: str
    profiles: tuple[Profile, ...] | None = None
    optimization_level: int | None = None


@dataclass(frozen=True)
class Difference:
    """One part that changed: what the engine was built with, and what is here."""

    part: str
    built: str
    here: str

    def __str__(self) -> str:
        return f"{self.part} {self.built} → {self.here}"


def differences(key: EngineKey, request: EngineRequest) -> list[Difference]:
    """Every part in which an engine does not fit a request; empty if it can be used."""
    found: list[Difference] = []

    def compare(part: str, built: str, here: str) -> None:
        if built != here:
            found.append(Difference(part, built, here))

    if key.graph != request.graph:
        found.append(Difference("graph", key.graph[:12], request.graph[:12]))
    compare("the bundle's profile", show_profile(key.bundle_profile), show_profile(request.bundle_profile))
    if request.profiles is not None:
        compare("built profiles", _show_profiles(key.profiles), _show_profiles(request.profiles))
    if key.runtime != request.runtime:
        found.append(Difference("runtime", TITLES[key.runtime], TITLES[request.runtime]))
    else:
        compare(TITLES[key.runtime], key.runtime_version, request.runtime_version)
    compare("platform", key.platform, request.platform)
    if request.compute_capability not in key.compute_capabilities:
        built = ", ".join(key.compute_capabilities)
        found.append(Difference("compute capability", built, request.compute_capability))
    if key.gpu is not None:
        compare("GPU", key.gpu, request.gpu)
    if key.driver is not None:
        compare("CUDA driver", key.driver, request.driver)
    if request.optimization_level is not None:
        compare("optimization level", str(key.optimization_level), str(request.optimization_level))
    return found


def graph_hash(bundle: Bundle, component: str) -> str:
    """SHA-256 over the hashes of the component's files, the graph's and its external data's.

    They are the manifest's, which opening the bundle compares with the files.
    """
    hashes = {entry.path: entry.sha256 for entry in bundle.manifest.files}
    joined = "\n".join(hashes[path] for path in bundle.component(component).files)
    return hashlib.sha256(joined.encode()).hexdigest()


def host_platform() -> str:
    """For instance ``linux-x86_64``, ``linux-aarch64`` or ``win32-amd64``."""
    return f"{sys.platform}-{platform.machine().lower()}"


def show_profile(profile: Profile) -> str:
    """As the command line writes it: ``batch=1:4:12,tokens=2:2:77``."""
    return ",".join(f"{symbol}={low}:{best}:{high}" for symbol, (low, best, high) in sorted(profile.items()))


def _show_profiles(profiles: tuple[Profile, ...]) -> str:
    return " and ".join(show_profile(profile) for profile in profiles)
