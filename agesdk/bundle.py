"""Bundles: the unit of deployment, a folder of typed ONNX graphs with a manifest.

A bundle holds ``manifest.json``, ``components/<name>/model.onnx`` (and its external data), and may hold
``tokenizer/``, ``tables/*.npz``, ``golden/<component>.npz`` and ``LICENSES.md``. Nothing in it is a pickle.
Every file is listed with size and SHA-256, and :meth:`Bundle.open` checks them, and that no path and no graph
leads out of the folder, before anything is opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from agesdk import atomic
from agesdk.errors import BundleError
from agesdk.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    SCHEMA_VERSION,
    AdaptiveNoiseSettings,
    Component,
    FaceAnalysisSettings,
    FileEntry,
    LearnedCondition,
    LifespanAgingSettings,
    Manifest,
    RefinerSettings,
    SchedulerSettings,
    Settings,
    SvrSettings,
    TensorSpec,
    TextCondition,
    Tolerance,
    Variant,
    ZoneAgingDefaults,
    ZoneAgingSettings,
    manifest_from_json,
    manifest_to_json,
)
from agesdk.onnx_external import external_locations
from agesdk.strict_json import Invalid

__all__ = [
    "SCHEMA_VERSION",
    "AdaptiveNoiseSettings",
    "Bundle",
    "Component",
    "FaceAnalysisSettings",
    "FileEntry",
    "LearnedCondition",
    "LifespanAgingSettings",
    "Manifest",
    "RefinerSettings",
    "SchedulerSettings",
    "Settings",
    "SvrSettings",
    "TensorSpec",
    "TextCondition",
    "Tolerance",
    "Variant",
    "ZoneAgingDefaults",
    "ZoneAgingSettings",
    "embedded_bundle",
    "manifest_from_json",
    "manifest_to_json",
    "write_manifest",
]

MAX_TABLE_BYTES = 2**30
"""Unpacked size of one ``.npz``; prompt tables and goldens of SDXL size stay below 300 MB."""

_log = logging.getLogger(__name__)
_REFETCH = "Copy or download the bundle again from its source."


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its parsed manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | None = None, kind: str | None = None, verify: bool = True
    ) -> Bundle:
        """Open a bundle folder.

        Parameters
        ----------
        path:
            The folder; None opens the embedded bundle of ``kind`` (``zone-aging`` if that is None too).
        kind:
            The kind that the caller needs; None accepts any.
        verify:
            Check every file's size and SHA-256 and the graphs' external data. Without it only the manifest is
            read and checked, and paths are still contained.

        Raises
        ------
        BundleError
            Not a bundle, not valid, altered, of another kind or of a newer schema.
        """
        folder = embedded_bundle(kind or "zone-aging") if path is None else Path(path)
        bundle = cls(folder, _read_manifest(folder))
        if kind is not None and bundle.manifest.kind != kind:
            raise BundleError(
                f"{folder} is a bundle of the kind {bundle.manifest.kind}",
                f"a bundle of the kind {kind} is needed here",
                "Give the path of such a bundle",
            )
        if verify:
            bundle.verify()
        return bundle

    @property
    def settings(self) -> Settings:
        """The settings of the bundle's kind."""
        return self.manifest.settings

    def verify(self) -> None:
        """Check all files against the manifest: presence, size, SHA-256, and where the graphs' weights lie.

        Raises
        ------
        BundleError
            The first file that is missing, altered or out of the folder.
        """
        for entry in self.manifest.files:
            path = self._contained(entry.path)
            size = path.stat().st_size
            if size != entry.size:
                raise BundleError(
                    f"{path} has {size} bytes",
                    f"the manifest says {entry.size}: it was cut or altered",
                    _REFETCH,
                )
            if _sha256(path) != entry.sha256:
                raise BundleError(f"{path} was altered", "its SHA-256 is not the manifest's", _REFETCH)
        for component in self.manifest.components.values():
            for precision in component.precisions:
                self._check_external_data(component.at(precision))
        _log.debug("verified %d files of %s", len(self.manifest.files), self.path)

    def unlisted_files(self) -> list[str]:
        """Relative paths of files in the folder that the manifest does not list; they are never opened."""
        listed = {entry.path for entry in self.manifest.files} | {MANIFEST_NAME}
        present = (path for path in self.path.rglob("*") if not path.is_dir())
        return sorted({path.relative_to(self.path).as_posix() for path in present} - listed)

    def component(self, name: str) -> Component:
        """The component ``name``; BundleError lists the names if there is none."""
        try:
            return self.manifest.components[name]
        except KeyError:
            known = ", ".join(self.manifest.components) or "none"
            raise BundleError(f"{self.path} has no component {name!r}", f"its components: {known}") from None

    def at(self, precisions: Mapping[str, str]) -> Bundle:
        """The same bundle with components in other precisions, by component; the others stay as they are.

        Raises `BundleError` where there is no such component or variant.
        """
        components = dict(self.manifest.components)
        for name, precision in precisions.items():
            components[name] = self.component(name).at(precision)
        return dataclasses.replace(self, manifest=dataclasses.replace(self.manifest, components=components))

    def component_path(self, name: str) -> Path:
        """The path of the component's ``.onnx`` file."""
        return self.file_path(self.component(name).files[0])

    def has_file(self, relative: str) -> bool:
        """Whether the manifest lists the file."""
        return any(entry.path == relative for entry in self.manifest.files)

    def file_path(self, relative: str) -> Path:
        """The path of a listed file, checked to be a regular file inside the bundle."""
        if not self.has_file(relative):
            raise BundleError(f"{self.path} has no file {relative!r}", "the manifest does not list it")
        return self._contained(relative)

    def table(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of ``tables/<name>.npz``."""
        return self._arrays(f"tables/{name}.npz")

    def golden(self, name: str) -> dict[str, np.ndarray]:
        """The recorded input and output of the component: arrays named ``input.<name>`` and
        ``output.<name>``.

        Outputs recorded for the component's precision (``golden/<name>.<precision>.npz``) take the place of
        those in ``golden/<name>.npz``.
        """
        arrays = self._arrays(f"golden/{name}.npz")
        own = f"golden/{name}.{self.component(name).precision}.npz"
        return arrays | self._arrays(own) if self.has_file(own) else arrays

    def _arrays(self, relative: str) -> dict[str, np.ndarray]:
        path = self.file_path(relative)
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(item.file_size for item in archive.infolist())
            if size > MAX_TABLE_BYTES:
                raise BundleError(f"{path} unpacks to {size} bytes", f"the limit is {MAX_TABLE_BYTES}")
            with np.load(path, allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
            raise BundleError(f"{path} is not a table of arrays", str(error), _REFETCH) from None

    def _contained(self, relative: str) -> Path:
        """The path of a file, refused unless it is a regular file inside the folder, links resolved."""
        path = self.path / PurePosixPath(relative)
        try:
            inside = path.resolve(strict=True).is_relative_to(self.path.resolve(strict=True))
            regular = stat.S_ISREG(path.stat().st_mode)
        except (OSError, RuntimeError) as error:
            raise BundleError(f"{path} can not be read", _reason(error), _REFETCH) from None
        if not inside:
            raise BundleError(f"{path} leads out of the bundle", "links out of the folder are not followed")
        if not regular:
            raise BundleError(f"{path} is not a regular file")
        return path

    def _check_external_data(self, component: Component) -> None:
        graph = self._contained(component.files[0])
        allowed = {str(PurePosixPath(path)) for path in component.files[1:]}
        folder = PurePosixPath(component.files[0]).parent
        for location in sorted(external_locations(graph)):
            if str(folder / location) not in allowed:
                raise BundleError(
                    f"{graph} takes weights from {location!r}",
                    f"the manifest does not list that file for the component {component.name}",
                    _REFETCH,
                )


def embedded_bundle(kind: str) -> Path:
    """The folder of the default bundle of a kind, which is installed with the package."""
    path = Path(__file__).resolve().parent / "bundles" / kind
    if not (path / MANIFEST_NAME).is_file():
        raise BundleError(
            f"This installation has no embedded bundle of the kind {kind}",
            fix="Reinstall agesdk, or give the path of a bundle",
        )
    return path


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> Manifest:
    """Complete a manifest with the size and SHA-256 of every file in the folder, and write it last,
    atomically.

    The components' graphs are checked as in :meth:`Bundle.verify`, so what is written can be opened.

    Returns
    -------
    Manifest
        The manifest as written.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir() and path != folder / MANIFEST_NAME)
    entries = tuple(
        FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size, _sha256(path)) for path in paths
    )
    if not entries:
        raise BundleError(f"{folder} has no files", "a bundle has at least one component")
    complete = dataclasses.replace(manifest, files=entries)
    Bundle(folder, complete).verify()
    text = manifest_to_json(complete)
    manifest_from_json(text)
    atomic.write_bytes(folder / MANIFEST_NAME, text.encode("utf-8"))
    return complete


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    try:
        if not folder.is_dir():
            why = "it is not a folder" if folder.exists() else "the folder does not exist"
            raise BundleError(f"{folder} is not a bundle", why, "Give the folder that holds manifest.json")
        if not path.is_file():
            raise BundleError(f"{folder} is not a bundle", "it has no manifest.json")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} has {path.stat().st_size} bytes", f"the limit is {MAX_MANIFEST_BYTES}")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise BundleError(f"{path} can not be read", _reason(error)) from None
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not UTF-8", str(error)) from None
    except ValueError as error:  # a null character in the path
        raise BundleError(f"{folder!r} is not a path", str(error)) from None
    try:
        return manifest_from_json(text)
    except Invalid as error:
        raise BundleError(f"{path} is not valid", error.what, error.fix) from None
    except BundleError as error:
        raise BundleError(f"{path}: {error.what}", error.why, error.fix) from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    except OSError as error:
        raise BundleError(f"{path} can not be read", _reason(error)) from None
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
