"""``python -m docs.make_zone_picture``: `docs/zones.png` and `docs/zones.md` from the zone table."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

import agesdk
from agesdk.drawing import FaceView, labelled_panels, zone_outline
from agesdk.faces import FaceAnalyzer, select_face
from agesdk.faces.zones import CROP_SIZE, GROUPS, ZONES, Zone, crop_transform, expand
from agesdk.imaging import read_image, write_image

HERE = Path(__file__).parent
PORTRAIT = Path(agesdk.__file__).parent / "data" / "astronaut.jpg"
PANEL = 480

_COLOURS = {
    "forehead": (64, 196, 255),
    "glabella": (255, 171, 64),
    "interocular": (178, 255, 89),
    "crows_feet": (255, 110, 150),
    "under_eye": (130, 177, 255),
    "nasolabial": (255, 214, 64),
    "upper_lip": (190, 150, 255),
    "mouth_corner": (100, 255, 218),
}

_PAGE = """# Zones of the face

![The zones on a portrait](zones.png)

A zone is a square crop around a point of the 468-point face mesh. Its side is given in *face scales*: the
larger of the distance between the eye centres and 0.95 × the distance from the eyes to the mouth. Crops are
turned upright with the head and sampled at {size} × {size} pixels; those of the right half are mirrored.
"Left" and "right" are sides of the picture. Thin squares show the crops, thick outlines the polygons inside
which a zone may change (it fades towards them); the dots are the mesh points that place the crop. The picture
has several panels because zones overlap.

| Zone | Kind | Mesh points (weights) | Offset outward, down | Side | Groups |
|---|---|---|---|---|---|
{rows}

Offsets and sides are in face scales. A target may name a zone (`crows_feet_left`), a kind (`crows_feet`: both
sides) or a group:

{groups}

The more specific name wins: `{{"all": 0.3, "crows_feet": 0.6, "crows_feet_left": 0.1}}` gives the left corner
0.1, the right one 0.6 and every other zone 0.3. `None` (`keep` on the command line) leaves a zone as it is:
what treated neighbours change where they overlap it is taken back, softly towards its outline.

The table is `ZONES` in `agesdk/faces/zones.py`. Portrait: NASA, Eileen Collins (public domain). This page and
its picture are written by `python -m docs.make_zone_picture`.
"""


def zone_page() -> str:
    """The text of `docs/zones.md`."""
    rows = "\n".join(_row(zone) for zone in ZONES)
    groups = "\n".join(f"- `{name}`: {', '.join(zone.name for zone in expand(name))}" for name in GROUPS)
    return _PAGE.format(size=CROP_SIZE, rows=rows, groups=groups)


def _row(zone: Zone) -> str:
    anchors = ", ".join(f"{point} ({weight:.2g})" for point, weight in zone.anchors)
    offset = f"{zone.offset[0]:g}, {zone.offset[1]:g}"
    cells = (f"`{zone.name}`", zone.kind, anchors, offset, f"{zone.side_length:.2f}", ", ".join(zone.groups))
    return "| " + " | ".join(cells) + " |"


def draw_zone_picture(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Panels of the face, each with zones that do not overlap; uint8 [H, W, 3] RGB.

    image: uint8 [H, W, 3] RGB; landmarks: float [468, 3], pixels of it.
    """
    low, high = landmarks[:, :2].min(axis=0), landmarks[:, :2].max(axis=0)
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    view = FaceView.around(image, box, PANEL, margin=0.2)
    panels = []
    for zones in _apart(landmarks):
        canvas = view.show(image)
        canvas = cv2.addWeighted(canvas, 0.75, np.full_like(canvas, 255), 0.25, 0)
        for zone in zones:
            _draw(canvas, view, landmarks, zone)
        panels.append((", ".join(dict.fromkeys(zone.kind.replace("_", " ") for zone in zones)), canvas))
    return labelled_panels(panels, columns=2)


def _apart(landmarks: np.ndarray) -> list[list[Zone]]:
    """Zones in groups whose polygons do not overlap."""
    groups: list[list[Zone]] = []
    for zone in ZONES:
        for group in groups:
            if not any(_meet(landmarks, zone, other) for other in group):
                group.append(zone)
                break
        else:
            groups.append([zone])
    return groups


def _meet(landmarks: np.ndarray, a: Zone, b: Zone) -> bool:
    first, second = (zone_outline(landmarks, zone).astype(np.float32) for zone in (a, b))
    return bool(cv2.intersectConvexConvex(first, second)[0] > 0)


def _draw(canvas: np.ndarray, view: FaceView, landmarks: np.ndarray, zone: Zone) -> None:
    colour = _COLOURS[zone.kind]
    transform = crop_transform(landmarks, zone, CROP_SIZE)
    end = CROP_SIZE - 0.5
    square = (
        np.array([[-0.5, -0.5], [end, -0.5], [end, end], [-0.5, end]]) @ transform[:, :2].T + transform[:, 2]
    )
    _outline(canvas, view.points(square), (255, 255, 255), 1)
    outline = view.points(zone_outline(landmarks, zone))
    _outline(canvas, outline, (40, 40, 44), 5)
    _outline(canvas, outline, colour, 3)
    for x, y in view.points(landmarks[[point for point, _ in zone.anchors]]):
        cv2.circle(canvas, (round(x), round(y)), 4, (40, 40, 44), cv2.FILLED, cv2.LINE_AA)
        cv2.circle(canvas, (round(x), round(y)), 2, colour, cv2.FILLED, cv2.LINE_AA)
    name = zone.kind.replace("_", " ")
    lines = [name] if zone.side == "centre" else [name, zone.side]
    x, bottom = float(outline[:, 0].mean()), float(outline[:, 1].max())
    for number, line in enumerate(reversed(lines)):
        (width, height), _ = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
        left, base = round(x - width / 2), round(bottom - 12 - 17 * number)
        patch = canvas[base - height - 2 : base + 5, left - 3 : left + width + 3]
        patch[:] = patch // 4 + 190
        cv2.putText(canvas, line, (left, base), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (20, 20, 24), 1, cv2.LINE_AA)


def _outline(canvas: np.ndarray, points: np.ndarray, colour: tuple[int, int, int], thickness: int) -> None:
    cv2.polylines(canvas, [np.round(points).astype(np.int32)], True, colour, thickness, cv2.LINE_AA)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write docs/zones.md and docs/zones.png from the zone table."
    )
    parser.add_argument("--portrait", type=Path, default=PORTRAIT, help="picture to draw on")
    arguments = parser.parse_args()
    image = read_image(arguments.portrait)
    face = select_face(FaceAnalyzer.load().detect(image))
    write_image(HERE / "zones.png", draw_zone_picture(image, face.landmarks), digital_source=None)
    (HERE / "zones.md").write_text(zone_page(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
