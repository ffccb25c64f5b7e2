"""Where compiled graphs and engines are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from agesdk.errors import OutputError

DEFAULT_LIMIT = 30 * 10**9
"""Bytes of engines, and as much of optimised graphs: a few bundles of SDXL size (5 GB a UNet) on one or two
GPUs."""


def cache_root() -> Path:
    """The user's cache folder of agesdk: ``AGESDK_CACHE``, or the platform's usual place. Not created."""
    chosen = os.environ.get("AGESDK_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "agesdk"


def cache_folder(*parts: str) -> Path:
    """A folder under the cache's root, created; only this user may look into the root (0700).

    Raises
    ------
    OutputError
        The folder can not be created, or others can write to it.
    """
    root = cache_root()
    folder = root.joinpath(*parts)
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = root.stat()
        # Graphs and engines are code: what others can write there is not opened.
        if os.name == "posix" and (state.st_uid != os.getuid() or state.st_mode & 0o022):
            raise PermissionError(0, "others than this user can write to it")
    except OSError as error:
        raise OutputError(
            f"The cache folder {folder} can not be used",
            error.strerror or str(error),
            "Run `chmod 700` on it, or name another one in the environment variable AGESDK_CACHE",
        ) from None
    return folder
