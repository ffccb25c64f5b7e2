import numpy as np

from agesdk.faces import Face
from agesdk.faces.zones import ZONES
from docs.make_zone_picture import HERE, draw_zone_picture, zone_page


def test_the_page_in_the_repository_is_that_of_the_zone_table() -> None:
    """If this fails, run `python -m docs.make_zone_picture`."""
    assert (HERE / "zones.md").read_text(encoding="utf-8") == zone_page()
    assert (HERE / "zones.png").stat().st_size > 100_000


def test_every_zone_is_in_the_table_once() -> None:
    rows = [line for line in zone_page().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [zone.name for zone in ZONES]


def test_the_picture_is_drawn_from_a_face(portrait: np.ndarray, face: Face) -> None:
    picture = draw_zone_picture(portrait, face.landmarks)
    assert picture.shape[2] == 3 and picture.shape[0] > 500
