"""Contact sheets: the pictures that are shown are the right ones, in the right place, and none is lost."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from agesdk.imaging import read_image, read_settings
from benchmarks.quality.measure import Pictures
from benchmarks.quality.records import FaceRecord
from benchmarks.quality.sheets import COLUMNS, FACES_PER_SHEET, PANEL_SIDE, ContactSheets

BBOX = (60.0, 50.0, 140.0, 150.0)
SIDE = 140
"""The box's longer side and a fifth of it on either side."""


def face(number: int, file: str = "") -> FaceRecord:
    nothing = (0.0,) * 5
    return FaceRecord(
        file=file or f"folder/person-{number}.jpg",
        group="light",
        lightness=60.0,
        ita=50.0,
        age_label=30.0,
        identity=nothing,
        age_source=30.0,
        age=nothing,
        outside_unchanged=True,
        single_unchanged=True,
        size_kept=True,
        seconds_prepare=1.0,
        seconds_age=1.0,
        megapixels=0.04,
    )


def pictures(number: int) -> Pictures:
    """Flat pictures: red tells the person, green the target (the source is 255)."""
    made = {}
    for target in (0.05, 0.25, None, 0.5, 0.75, 0.95):
        green = 255 if target is None else round(100 * target)
        made[target] = np.full((200, 220, 3), (10 + number, green, 7), np.uint8)
    return Pictures(made, BBOX)


def panels(sheet: np.ndarray, side: int) -> list[np.ndarray]:
    """The middle pixel of every panel of a sheet, row by row; a panel is a square of blue 7."""
    _, _, stats, _ = cv2.connectedComponentsWithStats((sheet[..., 2] == 7).astype(np.uint8))
    found = []
    for x, y, width, height, area in sorted(stats[1:].tolist(), key=lambda box: (box[1], box[0])):
        assert (width, height, area) == (side, side, side**2)
        found.append(sheet[y + side // 2, x + side // 2])
    return found


def shown(number: int) -> list[list[int]]:
    return [[10 + number, 255 if target is None else round(100 * target), 7] for target in COLUMNS]


def test_a_face_is_a_row_with_its_source_between_the_targets(tmp_path: Path) -> None:
    sheets = ContactSheets(tmp_path)
    for number in range(2):
        sheets.add(face(number), pictures(number))
    assert not list(tmp_path.iterdir())
    sheets.finish()
    assert sheets.written == [tmp_path / "sheet-01.png"]
    found = panels(read_image(tmp_path / "sheet-01.png"), PANEL_SIDE)
    assert [value.tolist() for value in found] == shown(0) + shown(1)
    assert b"compositeWithTrainedAlgorithmicMedia" in (tmp_path / "sheet-01.png").read_bytes()
    assert read_settings(tmp_path / "sheet-01.png") == {}


def test_a_full_sheet_is_written_at_once_and_the_rest_at_the_end(tmp_path: Path) -> None:
    sheets = ContactSheets(tmp_path)
    for number in range(FACES_PER_SHEET + 1):
        sheets.add(face(number), pictures(number))
        assert len(sheets.written) == (number + 1) // FACES_PER_SHEET
    sheets.finish()
    sheets.finish()
    assert [path.name for path in sheets.written] == ["sheet-01.png", "sheet-02.png"]
    first, last = (panels(read_image(path), PANEL_SIDE) for path in sheets.written)
    assert len(first) == FACES_PER_SHEET * len(COLUMNS)
    assert [value.tolist() for value in last] == shown(FACES_PER_SHEET)


def test_nothing_is_written_of_nothing(tmp_path: Path) -> None:
    ContactSheets(tmp_path).finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["a/b/person.v2.jpg", "a-b-person.v2.jpg"])
def test_full_size_pictures_keep_their_own_pixels_and_a_flat_name(tmp_path: Path, file: str) -> None:
    sheets = ContactSheets(tmp_path, full_size=True)
    sheets.add(face(0, file), pictures(0))
    path = tmp_path / "faces" / "a-b-person.v2.png"
    assert sheets.written == [path]
    assert [value.tolist() for value in panels(read_image(path), SIDE)] == shown(0)
    sheets.finish()
    assert [item.name for item in sheets.written] == ["a-b-person.v2.png", "sheet-01.png"]
