"""The one format of measurements: raw samples, and all that is needed to know what they are of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from agesdk import atomic, strict_json
from agesdk.bundle import Bundle
from agesdk.doctor.host import Host
from agesdk.doctor.nvidia import look_at_nvidia
from agesdk.doctor.system import look_at_system
from agesdk.errors import UsageError

SCHEMA_VERSION = 1

PACKAGES = (
    *("agesdk", "numpy", "opencv-python-headless", "onnxruntime", "torch", "diffusers", "transformers"),
    *("onnx", "openvino", "tensorrt", "tensorrt-rtx"),
)


@dataclass(frozen=True)
class Machine:
    """Where it was measured; `load` is the system's one-minute load average before and after, None where the
    system tells none. Bytes."""

    cpu: str
    cores: int
    features: tuple[str, ...]
    memory: int | None
    gpus: tuple[str, ...]
    system: str
    python: str
    load: tuple[float, ...] | None


@dataclass(frozen=True)
class BundleIdentity:
    """Which bundle; the hash is of its manifest, which has the hash of every file."""

    name: str
    version: str
    kind: str
    manifest_sha256: str


@dataclass(frozen=True)
class Series:
    """Samples of one quantity in the order in which they were taken.

    Attributes
    ----------
    name:
        What was measured.
    unit:
        ``s``, ``B``, ``FLOP``, ``FLOP/s``, ``B/s`` or ``dB``.
    labels:
        What tells it from others of the same name.
    """

    name: str
    unit: str
    samples: tuple[float, ...]
    labels: dict[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One run of a benchmark.

    Attributes
    ----------
    command:
        The benchmark's name, which says how the record is rendered.
    arguments:
        The words behind ``python -m benchmarks`` that made it.
    created:
        ISO 8601, UTC.
    """

    command: str
    arguments: tuple[str, ...]
    created: str
    machine: Machine
    versions: dict[str, str]
    bundle: BundleIdentity | None
    settings: dict[str, str | int | float | bool | None]
    series: tuple[Series, ...]
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def of(self, name: str, **labels: str | int | float) -> Series | None:
        """The first series of a name with these labels; None if there is none."""
        return next(self.all(name, **labels), None)

    def all(self, name: str, **labels: str | int | float) -> Iterator[Series]:
        """The series of a name with these labels."""
        for series in self.series:
            if series.name == name and all(series.labels.get(key) == labels[key] for key in labels):
                yield series


class Recorder:
    """Gathers a record while something is measured; the load is read at both ends."""

    def __init__(self, command: str, arguments: tuple[str, ...], bundle: Bundle | None = None) -> None:
        self.command, self.arguments = command, arguments
        self.settings: dict[str, str | int | float | bool | None] = {}
        self.notes: list[str] = []
        self._series: dict[tuple[Any, ...], tuple[Series, list[float]]] = {}
        self._bundle = identify(bundle) if bundle is not None else None
        self._created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._load = _load()

    def add(self, name: str, unit: str, *samples: float, **labels: str | int | float) -> None:
        """Append samples to the series of this name and these labels."""
        key = (name, *sorted(labels.items()))
        _, gathered = self._series.setdefault(key, (Series(name, unit, (), labels), []))
        gathered.extend(float(sample) for sample in samples)

    def finish(self) -> Record:
        """The record of all that was added."""
        loads = (*self._load, *_load())
        return Record(
            self.command,
            self.arguments,
            self._created,
            describe_machine(loads or None),
            installed_versions(),
            self._bundle,
            self.settings,
            tuple(Series(s.name, s.unit, tuple(found), s.labels) for s, found in self._series.values()),
            tuple(self.notes),
        )


def write(record: Record, path: Path) -> None:
    """Write a record as JSON, whole or not at all."""
    document = strict_json.encode(record)
    # A series on one line: a file of thousands of samples stays readable.
    series = ",\n".join(f"  {json.dumps(entry)}" for entry in document["series"])
    document["series"] = []
    text = json.dumps(document, indent=1, ensure_ascii=False)
    text = text.replace('"series": []', f'"series": [\n{series}\n ]', 1)
    atomic.write_bytes(path, (text + "\n").encode("utf-8"))


def read(path: Path) -> Record:
    """Read a record.

    Raises
    ------
    UsageError
        The file can not be read, is no record, or one of another schema version.
    """
    try:
        document = strict_json.parse(path.read_text("utf-8"))
        version = document.get("schema_version") if isinstance(document, dict) else None
        if version != SCHEMA_VERSION:
            raise UsageError(
                f"{path} is no record of schema version {SCHEMA_VERSION}", f"it states {version!r}", _MEASURE
            )
        return strict_json.decode(Record, document)
    except (OSError, UnicodeDecodeError, strict_json.Invalid) as error:
        raise UsageError(f"{path} is not a record of a benchmark", str(error), _MEASURE) from None


def identify(bundle: Bundle) -> BundleIdentity:
    """Name, version, kind and hash of a bundle."""
    manifest = bundle.manifest
    digest = hashlib.sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()
    return BundleIdentity(manifest.name, manifest.version, manifest.kind, digest)


def describe_machine(load: tuple[float, ...] | None) -> Machine:
    """The machine this runs on."""
    host = Host()
    info = look_at_system(host, Path.cwd())
    gpus = tuple(f"{gpu.name}, driver {gpu.driver}" for gpu in look_at_nvidia(host).gpus)
    memory, features = info.memory_total, info.cpu_features
    return Machine(info.cpu, info.cores, features, memory, gpus, info.system, info.python, load)


def installed_versions() -> dict[str, str]:
    """Of the packages that matter to speed, those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _load() -> tuple[float, ...]:
    return (round(os.getloadavg()[0], 2),) if hasattr(os, "getloadavg") else ()


_MEASURE = "Measure again with this version: python -m benchmarks --help"
