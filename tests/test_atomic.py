"""Folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from agesdk.atomic import new_folder
from agesdk.errors import OutputError


def occupy(folder: Path) -> None:
    """Something that lies where the new folder is to be."""
    (folder / "t").mkdir()
    (folder / "t" / "old").touch()


def test_a_folder_takes_its_name_when_all_is_written(tmp_path: Path) -> None:
    target = tmp_path / "made" / "here"
    with new_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["here"]


def test_what_was_there_is_replaced_as_a_whole(tmp_path: Path) -> None:
    occupy(tmp_path)
    with new_folder(tmp_path / "t") as folder:
        (folder / "new").touch()
        assert (tmp_path / "t" / "old").exists()
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_or_interrupt_leaves_all_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    occupy(tmp_path)
    with pytest.raises(error), new_folder(tmp_path / "t") as folder:
        (folder / "new").touch()
        raise error
    assert [path.name for path in tmp_path.rglob("*")] == ["t", "old"]


def test_a_rename_that_fails_puts_back_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupy(tmp_path)
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OutputError, match="No space left"), new_folder(tmp_path / "t"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["t", "old"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", [0, 1])
def test_an_interrupt_while_renaming_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: bool
) -> None:
    occupy(tmp_path)
    rename, calls = Path.rename, iter(range(9))

    def interrupted(self: Path, target: Path) -> Path:
        now = next(calls) == number
        if now and not after:
            raise KeyboardInterrupt
        renamed = rename(self, target)
        if now:
            raise KeyboardInterrupt
        return renamed

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "t") as folder:
        (folder / "new").touch()
    left = "new" if (number, after) == (1, True) else "old"
    assert [path.name for path in tmp_path.rglob("*")] == ["t", left]


def test_what_can_not_be_put_back_is_kept_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occupy(tmp_path)
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if target.name == "t":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OutputError, match="What lay there is whole in") as error, new_folder(tmp_path / "t"):
        pass
    (kept,) = tmp_path.iterdir()
    assert str(kept) in str(error.value) and (kept / "old").exists()


def test_a_link_is_followed_and_a_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk", target_is_directory=True)
    with new_folder(tmp_path / "link") as folder:
        (folder / "new").touch()
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "new").exists()
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file", Path("/")):
        with pytest.raises(OutputError, match="Give the name of a folder"), new_folder(place):
            pass
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "file", "link"]


def test_a_place_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "t", tmp_path / ("a" * 300), f"{tmp_path}/a\0b"):
        with pytest.raises(OutputError, match="can not be written"), new_folder(place):
            pass
