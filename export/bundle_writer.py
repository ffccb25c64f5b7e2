"""Writing a bundle folder: everything in a temporary folder beside it, which takes its name when it is
whole."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agesdk.atomic import new_folder
from agesdk.bundle import Manifest, write_manifest
from agesdk.errors import OutputError, UsageError

logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 2**20
"""A manifest that holds more is refused when it is read; figures of quality are a few kB."""


class BundleWriter:
    """The folder of a bundle in the making; see `new_bundle`.

    Attributes
    ----------
    folder:
        Temporary folder; files written into it are part of the bundle.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished = False

    def component_folder(self, component: str) -> Path:
        """``components/<component>``, made."""
        folder = self.folder / "components" / component
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def component_files(self, component: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """The manifest's paths of files in the component's folder."""
        return tuple(f"components/{component}/{name}" for name in names)

    def write_golden(self, component: str, arrays: Mapping[str, np.ndarray]) -> None:
        """``golden/<component>.npz``, compressed."""
        self._write_arrays(f"golden/{component}.npz", arrays)

    def write_table(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """``tables/<name>.npz``, compressed."""
        self._write_arrays(f"tables/{name}.npz", arrays)

    def copy(self, source: Path, relative: str) -> None:
        """Copy one file's content to a path inside the bundle."""
        target = self.folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)

    def write_text(self, relative: str, text: str) -> None:
        target = self.folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")

    def finish(self, manifest: Manifest) -> Manifest:
        """Write the manifest, with sizes and hashes; the bundle is whole after it."""
        complete = write_manifest(self.folder, manifest)
        self.finished = True
        return complete

    def _write_arrays(self, relative: str, arrays: Mapping[str, np.ndarray]) -> None:
        target = self.folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **dict(arrays))


@contextlib.contextmanager
def new_bundle(target: Path, replace: bool = False) -> Iterator[BundleWriter]:
    """A `BundleWriter` whose folder becomes ``target`` when the block ends with a manifest written.

    Whatever goes wrong before, an interrupt included, leaves ``target`` as it was and no temporary folder.

    Raises
    ------
    UsageError
        ``target`` exists and is not to be replaced, or is not a bundle.
    OutputError
        The folder can not be made or renamed.
    """
    target = Path(os.path.abspath(target))
    if target.exists() or target.is_symlink():
        if not (target / "manifest.json").is_file() or target.is_symlink():
            raise UsageError(f"{target} exists and is not a bundle", "", "Give a folder that does not exist")
        if not replace:
            raise UsageError(
                f"{target} exists", "", "Give another folder, or --replace to replace that bundle"
            )
    try:
        with new_folder(target) as folder:
            writer = BundleWriter(folder)
            yield writer
            assert writer.finished, "the block must call finish"
    except OSError as error:
        raise OutputError(f"{target} can not be written", error.strerror or str(error)) from error
    logger.info("wrote %s", target)


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file that the user named, fit to be written into a manifest.

    Raises
    ------
    UsageError
        The file can not be read, is too large, is not a JSON object or has a number that is not finite.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise UsageError(f"The {what} file {path} has {size} bytes", f"the limit is {MAX_JSON_BYTES}")
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise UsageError(f"The {what} file {path} can not be read", error.strerror or str(error)) from None
    except ValueError as error:
        raise UsageError(f"The {what} file {path} is not JSON", str(error)) from None
    if not isinstance(document, dict):
        raise UsageError(
            f"The {what} file {path} holds a {type(document).__name__}", "", "It must be a JSON object"
        )
    return document


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")
