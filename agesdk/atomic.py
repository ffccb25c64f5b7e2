"""Writing files whole or not at all."""

from __future__ import annotations

import os
import secrets
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
