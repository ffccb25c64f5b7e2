"""Writing files and folders whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agesdk.errors import OutputError


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file under a temporary name beside it and rename it, so no reader ever sees half of it.

    The file gets the permissions of the process's umask. An existing file is replaced.

    Raises
    ------
    OutputError
        The folder does not exist or is not writable, the path is a folder, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        check_writable(path)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path} can not be written", getattr(error, "strerror", None) or str(error)
        ) from None


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise OutputError where a file can surely not be written, before work is spent on its content."""
    path = Path(path)
    folder = path.parent
    if path.is_dir():
        raise OutputError(f"{path} can not be written", "it is a folder", "Give a file name")
    if not folder.is_dir():
        why = f"{folder} is not a folder" if folder.exists() else f"the folder {folder} does not exist"
        raise OutputError(f"{path} can not be written", why, "Create the folder or choose another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"{path} can not be written", f"the folder {folder} is not writable", "Choose another"
        )


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write into that takes the name ``path`` when the block ends without an error.

    Until then it lies beside ``path`` under a temporary name; what its files hold is on the disk before it is
    renamed. A folder that lay at ``path`` is replaced as a whole; a link to one is followed. An error in the
    block or while renaming, an interrupt included, leaves at ``path`` what was there or all that is new, and
    nothing beside it. Missing parent folders are made.

    Raises
    ------
    OutputError
        The folder can not be made or renamed, or a file has its name. Where the folder that lay at ``path``
        could not get its name back, the error says where it is.
    """
    try:
        path = Path(os.path.realpath(path))
        if not path.name or (path.exists() and not path.is_dir()):
            why = "it is a file" if path.name else "it is the root of the file system"
            raise OutputError(f"{path} can not be written", why, "Give the name of a folder")
        token = secrets.token_hex(6)
        temporary, old = (path.with_name(f".{path.name[:100]}.{token}.{end}") for end in ("tmp", "old"))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"{path} can not be written", why) from None
    try:
        yield temporary
        try:
            _sync(temporary)
            _take_place(temporary, path, old)
        except OSError as error:
            raise OutputError(f"{path} can not be written", error.strerror or str(error)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():  # else it is the only copy
            shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _take_place(temporary: Path, path: Path, old: Path) -> None:
    try:
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            try:
                old.rename(path)
            except OSError as error:
                raise OutputError(
                    f"{path} can not be written",
                    error.strerror or str(error),
                    f"What lay there is whole in {old}: give it its name back",
                ) from None
        raise
