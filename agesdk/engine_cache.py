"""The cache of compiled engines: found by key, written whole or not at all, kept private and within a size.

An entry is an engine file and a sidecar, JSON for people and programs, which names the engine file and its
SHA-256. The engine is renamed into place first and its name holds its hash; the sidecar, renamed last, is
what makes the entry exist. A process that dies in between leaves files that no sidecar names: they are never
opened, and the next writer removes them.

A plan is code that runs on the GPU with the user's rights, so the folder is the user's alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import mmap
import os
import secrets
import shlex
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from agesdk import atomic, strict_json
from agesdk.cache_dir import cache_root
from agesdk.engine_key import AHEAD_OF_TIME, EngineKey, EngineRequest, differences, show_profile
from agesdk.errors import BackendError, OutputError
from agesdk.file_lock import file_lock
from agesdk.manifest import TensorSpec
from agesdk.strict_json import Invalid

SIDECAR_SCHEMA = 1

_LOCK = ".lock"
_JIT_SUFFIX = ".jit"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineRecord:
    """The sidecar of an engine.

    Attributes
    ----------
    key:
        What the engine was built from and for.
    file, size, sha256:
        Name in the cache folder, bytes, lower-case hex.
    built:
        When, UTC, ISO 8601.
    seconds, processor_seconds, peak_bytes:
        Wall and processor time of the build, and the most memory its process held, where that is known.
    layers:
        How many layers of each type the network had before TensorRT fused them.
    """

    bundle: str
    component: str
    precision: str
    key: EngineKey
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    file: str
    size: int
    sha256: str
    built: str
    seconds: float
    processor_seconds: float
    peak_bytes: int | None
    agesdk: str
    layers: dict[str, int] = field(default_factory=dict)
    schema: int = SIDECAR_SCHEMA


@dataclass(frozen=True)
class CacheEntry:
    """An engine in the cache; ``used`` is when it was last loaded or built, in seconds since the epoch."""

    record: EngineRecord
    sidecar: Path
    size: int
    used: float

    @property
    def engine(self) -> Path:
        """The engine file."""
        return self.sidecar.parent / self.record.file


class EngineCache:
    """A folder of engines.

    Parameters
    ----------
    folder:
        Made with mode 0700 when it is first used; None takes ``engines`` in `cache_root`.

    Raises
    ------
    BackendError
        Another user may write to the folder.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = cache_root() / "engines" if folder is None else Path(folder)

    def entries(self) -> list[CacheEntry]:
        """All engines, the last used first. Sidecars that can not be read are logged and left out."""
        if not self.folder.is_dir():
            return []
        self._check_private()
        found = []
        for sidecar in self.folder.glob("*.json"):
            try:
                found.append(read_entry(sidecar))
            except Invalid as error:
                logger.warning("ignoring %s: %s", sidecar, error)
            except FileNotFoundError:
                continue  # replaced or cleaned while this runs
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def find(self, request: EngineRequest) -> CacheEntry:
        """The engine that fits the request, the one built last if several do.

        Raises
        ------
        BackendError
            There is none; the message names what changed since the nearest one was built, and the command
            that builds it.
        """
        related = [
            entry
            for entry in self.entries()
            if entry.record.component == request.component
            and (entry.record.bundle == request.bundle or entry.record.key.graph == request.graph)
        ]
        related.sort(key=lambda entry: entry.record.built, reverse=True)
        what = f'No engine for the component "{request.component}" fits'
        if not related:
            raise BackendError(
                what, f"none has been built in {self.folder}", f"Run `{build_command(request)}`"
            )
        nearest = min(related, key=lambda entry: len(_changes(entry.record, request)))
        changed = _changes(nearest.record, request)
        if changed:
            raise BackendError(
                what,
                "; ".join(changed),
                f"Run `{build_command(request, nearest.record.key)}`",
            )
        return nearest

    def is_intact(self, entry: CacheEntry) -> bool:
        """Whether the engine file is there, with the sidecar's size and SHA-256."""
        try:
            with entry.engine.open("rb") as file:
                return _sha256(file) == entry.record.sha256
        except OSError:
            return False

    @contextlib.contextmanager
    def open(self, request: EngineRequest) -> Iterator[tuple[CacheEntry, mmap.mmap]]:
        """The entry that fits and the engine's bytes, compared with the sidecar's size and SHA-256.

        Raises
        ------
        BackendError
            As `find`, or the engine file is damaged.
        """
        try:
            entry = self.find(request)
            file = entry.engine.open("rb")
        except FileNotFoundError:
            # A writer replaced the engine between the two lines; its sidecar was there before.
            entry = self.find(request)
            try:
                file = entry.engine.open("rb")
            except OSError as error:
                raise _damaged(entry, request, error.strerror or str(error)) from None
        with file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.record.size or not size:
                raise _damaged(entry, request, f"it has {size} bytes, not {entry.record.size}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if hashlib.sha256(content).hexdigest() != entry.record.sha256:
                    raise _damaged(entry, request, "its SHA-256 is not the sidecar's")
                with contextlib.suppress(OSError):
                    os.utime(entry.sidecar)
                yield entry, content

    @contextlib.contextmanager
    def writing(
        self, timeout: float | None = None, on_wait: Callable[[str], None] | None = None
    ) -> Iterator[CacheWriter]:
        """A `CacheWriter`, one at a time among all processes; see `file_lock` for the parameters."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"The engine cache {self.folder} can not be made",
                error.strerror or str(error),
                "Set AGESDK_CACHE to a folder of yours",
            ) from None
        self._check_private()
        with file_lock(self.folder / _LOCK, timeout, on_wait):
            writer = CacheWriter(self)
            writer.remove_leftovers()
            try:
                yield writer
            finally:
                writer.forget_unfinished()

    def jit_path(self, entry: CacheEntry, gpu: str, driver: str) -> Path:
        """Where TensorRT-RTX keeps what it compiled for this GPU and driver when the engine first ran."""
        digest = hashlib.sha256(f"{gpu}\n{driver}".encode()).hexdigest()[:12]
        return entry.engine.with_name(f"{entry.engine.stem}.{digest}{_JIT_SUFFIX}")

    def _check_private(self) -> None:
        if sys.platform == "win32":
            return  # the default lies in the user's profile, whose rights Windows sees to
        status = self.folder.stat()
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
            raise BackendError(
                f"The engine cache {self.folder} is not yours alone",
                "engines are code, and another user may write to the folder",
                f"Run `chmod 700 {shlex.quote(str(self.folder))}`, or set AGESDK_CACHE to another folder",
            )


class CacheWriter:
    """What the holder of the cache's lock may do."""

    def __init__(self, cache: EngineCache) -> None:
        self._folder = cache.folder
        self._cache = cache
        self._making: set[Path] = set()

    def temporary(self) -> Path:
        """A path for an engine in the making; left as it is, the next writer removes it."""
        path = self._folder / f".{secrets.token_hex(6)}.tmp"
        self._making.add(path)
        return path

    def commit(self, made: Path, record: EngineRecord) -> CacheEntry:
        """Give the engine file its name and write its sidecar; an entry of the same key is replaced.

        Parameters
        ----------
        made:
            A path from `temporary`, completely written.
        record:
            Its ``file``, ``size`` and ``sha256`` are filled in here.
        """
        stem = f"{record.component}-{record.key.digest()[:16]}"
        sidecar = self._folder / f"{stem}.json"
        try:
            with made.open("r+b") as file:
                os.fsync(file.fileno())
                sha256 = _sha256(file)
                size = file.tell()
            name = f"{stem}-{sha256[:12]}.engine"
            os.replace(made, self._folder / name)
            self._making.discard(made)
        except OSError as error:
            raise OutputError(
                f"The engine of {record.component} can not be kept", error.strerror or str(error)
            ) from None
        complete = dataclasses.replace(record, file=name, size=size, sha256=sha256)
        text = json.dumps(strict_json.encode(complete), indent=2) + "\n"
        atomic.write_bytes(sidecar, text.encode())
        self.remove_leftovers()
        return read_entry(sidecar)

    def remove(self, entry: CacheEntry) -> None:
        """Remove an engine: its sidecar first, so that it is never half there."""
        entry.sidecar.unlink(missing_ok=True)
        self.remove_leftovers()

    def clean(
        self, limit: int | None = None, older_than: float | None = None, keep: set[Path] | None = None
    ) -> list[CacheEntry]:
        """Remove engines not used for `older_than` seconds, then the least recently used until `limit` bytes
        are left.

        Parameters
        ----------
        keep:
            Sidecars that stay whatever the limit.

        Returns
        -------
        list[CacheEntry]
            What was removed.
        """
        entries = self._cache.entries()
        total = sum(entry.size for entry in entries)
        removed = []
        for entry in reversed(entries):
            stale = older_than is not None and time.time() - entry.used > older_than
            if entry.sidecar in (keep or ()) or not (stale or (limit is not None and total > limit)):
                continue
            self.remove(entry)
            total -= entry.size
            removed.append(entry)
        return removed

    def forget_unfinished(self) -> None:
        """Remove what was not committed."""
        self._making.clear()
        self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Remove what no sidecar names: engines in the making, of killed builds and of removed entries."""
        named = set()
        for sidecar in self._folder.glob("*.json"):
            with contextlib.suppress(Invalid, FileNotFoundError):
                named.add(Path(read_entry(sidecar).record.file).stem)
        for path in self._folder.iterdir():
            engine = path.suffix == ".engine" and path.stem not in named
            compiled = path.suffix == _JIT_SUFFIX and path.name.partition(".")[0] not in named
            abandoned = path.suffix == ".tmp" and path not in self._making
            if engine or compiled or abandoned:
                with contextlib.suppress(OSError):  # open in another process on Windows: the next time
                    path.unlink()


def _changes(record: EngineRecord, request: EngineRequest) -> list[str]:
    """What keeps an engine from being used; a graph of another precision is named as such."""
    changed = [str(difference) for difference in differences(record.key, request)]
    if changed and record.precision != request.precision:
        changed.insert(0, f"precision {record.precision} → {request.precision}")
    return changed


def build_command(request: EngineRequest, built: EngineKey | None = None) -> str:
    """The command that builds what is asked for, in the way `built` was."""
    known = request.compute_capability in AHEAD_OF_TIME
    ahead = request.runtime == "tensorrt-rtx" and known and (built is None or built.gpu is None)
    compute_capability = request.compute_capability.replace(".", "")
    target = f"rtx:{compute_capability}" if ahead else f"local:{request.runtime}"
    words = ["python -m engines build", shlex.quote(str(request.bundle_path)), "--target", target]
    words += ["--component", request.component, "--precision", request.precision]
    for profile in request.profiles or ():
        if profile != request.bundle_profile:
            words += ["--profile", show_profile(profile)]
    if request.optimization_level is not None:
        words += ["--optimization-level", str(request.optimization_level)]
    return " ".join(words)


def read_entry(sidecar: Path) -> CacheEntry:
    """Raises `Invalid` for a sidecar that is not one, FileNotFoundError for one that is gone."""
    used = sidecar.stat().st_mtime
    try:
        document = strict_json.parse(sidecar.read_text("utf-8"))
        if isinstance(document, dict) and document.get("schema") != SIDECAR_SCHEMA:
            raise Invalid("schema", f"is {document.get('schema')!r}, expected {SIDECAR_SCHEMA}")
        record = strict_json.decode(EngineRecord, document)
    except UnicodeDecodeError as error:
        raise Invalid("", f"is not UTF-8: {error}") from None
    if Path(record.file).name != record.file or not record.file.endswith(".engine"):
        raise Invalid("file", f"is {record.file!r}, not the name of an engine in the same folder")
    files = [sidecar.parent / record.file, *sidecar.parent.glob(f"{Path(record.file).stem}.*{_JIT_SUFFIX}")]
    size = sum(path.stat().st_size for path in files if path.exists())
    return CacheEntry(record, sidecar, size, used)


def _damaged(entry: CacheEntry, request: EngineRequest, why: str) -> BackendError:
    return BackendError(
        f"The engine {entry.engine} is damaged", why, f"Run `{build_command(request, entry.record.key)}`"
    )


def _sha256(file: BinaryIO) -> str:
    """Of the whole file, from its current position on."""
    digest = hashlib.sha256()
    while chunk := file.read(2**20):
        digest.update(chunk)
    return digest.hexdigest()
