"""``agesdk analyze PHOTO``: the aging score of every zone."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from agesdk.cli import common
from agesdk.errors import UsageError

if TYPE_CHECKING:
    from agesdk.zone_aging import PreparedFace


def add_parser(commands: common.Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "analyze",
        help="print the aging score of every zone of a face",
        description="Print the aging score of every zone of a face: 0 % smoothest, 100 % most wrinkled.",
    )
    parser.add_argument("photo", metavar="PHOTO", help="JPEG, PNG or WebP")
    parser.add_argument(
        "--overlay", metavar="OUT", help="also write the photo with zones and scores drawn over it"
    )
    common.add_face_option(parser)
    common.add_model_options(parser)
    common.add_output_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Score the zones; with ``--overlay`` draw them."""
    from agesdk import atomic
    from agesdk.imaging import output_suffix, write_image

    if options.overlay is not None:
        output_suffix(options.overlay)
        atomic.check_writable(options.overlay)
        if common.same_file(options.photo, options.overlay):
            raise UsageError(
                f"{options.overlay} is the photo itself", fix="Give another path for the overlay"
            )
    prepared = common.load_ager(options).prepare(options.photo, face=options.face)
    scores = all_scores(prepared)

    common.say(options, face_line(prepared))
    rows = [
        (name, common.as_percent(score), f"skipped: {prepared.skipped[name]}" if score is None else "")
        for name, score in scores.items()
    ]
    common.say(options, common.table(rows, ("zone", "score", "")))
    if options.overlay is not None:
        from agesdk.drawing import draw_zones

        drawn = draw_zones(prepared.image, prepared.face.landmarks, scores)
        write_image(
            options.overlay, drawn, {"scores": scores}, digital_source=None, icc_profile=prepared.icc_profile
        )
        common.say(options, f"wrote {options.overlay}")
    common.say_json(options, {"photo": options.photo, **face_object(prepared), "overlay": options.overlay})
    return 0


def all_scores(prepared: PreparedFace) -> dict[str, float | None]:
    """The score of every zone in table order; None for a zone that was skipped."""
    from agesdk.faces.zones import ZONES

    scores = {zone.name: prepared.scores.get(zone.name) for zone in ZONES}
    return {name: score for name, score in scores.items() if score is not None or name in prepared.skipped}


def face_line(prepared: PreparedFace) -> str:
    """Size and pose of the face in a line."""
    face = prepared.face
    pose = f"yaw {face.pose.yaw:+.0f}, pitch {face.pose.pitch:+.0f}, roll {face.pose.roll:+.0f} degrees"
    return f"face of {face.size:.0f} pixels, {pose}, confidence {face.score:.2f}"


def face_object(prepared: PreparedFace) -> dict[str, Any]:
    """The face and its zones, for JSON."""
    face = prepared.face
    return {
        "face": {
            "bbox": [round(float(value), 2) for value in face.bbox],
            "score": float(face.score),
            "size": float(face.size),
            "yaw": face.pose.yaw,
            "pitch": face.pose.pitch,
            "roll": face.pose.roll,
        },
        "zones": {
            name: {"score": score, "skipped": prepared.skipped.get(name)}
            for name, score in all_scores(prepared).items()
        },
    }
