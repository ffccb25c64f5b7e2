"""``agesdk age PHOTO OUT``: age or rejuvenate zones of a face."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from agesdk.cli import common
from agesdk.errors import UsageError

if TYPE_CHECKING:
    from agesdk.zone_aging import AgingResult

_EPILOG = """zones: forehead, glabella, interocular, upper_lip; crows_feet, under_eye, nasolabial and
mouth_corner on both sides, or with _left or _right on one; the groups top, bottom, left, right, all.
The more specific name wins. NAME=keep (or none) leaves a zone as it is, where its neighbours overlap it too.

example: agesdk age portrait.jpg older.png --uniform 60 --zone forehead=80 --zone upper_lip=keep"""


_KEEP = ("keep", "none")


def add_parser(commands: common.Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "age",
        help="age or rejuvenate zones of a face",
        description="Age or rejuvenate zones of a face to target scores, in percent.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("photo", metavar="PHOTO", help="JPEG, PNG or WebP")
    parser.add_argument("out", metavar="OUT", help="picture to write: .png, .jpg or .webp")
    parser.add_argument(
        "--zone",
        dest="zones",
        action="append",
        default=[],
        type=zone_target,
        metavar="NAME=PERCENT|keep",
        help="target of a zone, a kind of zone or a group; may be repeated",
    )
    parser.add_argument("--uniform", type=common.percent, metavar="PERCENT", help="target of all other zones")
    common.add_face_option(parser)
    common.add_sampling_options(parser)
    common.add_model_options(parser)
    common.add_output_options(parser)
    parser.set_defaults(run=run)


def zone_target(text: str) -> tuple[str, float | None]:
    """``"forehead=80"`` to ``("forehead", 0.8)``, ``"forehead=keep"`` to ``("forehead", None)``."""
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PERCENT, such as forehead=80")
    return name.strip(), None if value.strip().lower() in _KEEP else common.percent(value)


def run(options: argparse.Namespace) -> int:
    """Age the photo and write the result."""
    from agesdk import atomic
    from agesdk.faces.zones import resolve_targets
    from agesdk.imaging import output_suffix

    targets: dict[str, float | None] = {} if options.uniform is None else {"all": options.uniform}
    targets.update(options.zones)
    if not targets:
        raise UsageError("No target is given", fix="Add --zone forehead=80 or --uniform 60")
    resolve_targets(targets)
    output_suffix(options.out)
    atomic.check_writable(options.out)
    if common.same_file(options.photo, options.out):
        raise UsageError(f"{options.out} is the photo itself", fix="Give another output path")

    ager = common.load_ager(options)
    with common.progress_bar(options, "aging") as advance:
        face = ager.prepare(options.photo, face=options.face)
        result = ager.age(face, targets, progress=advance, **sampling(options))
    result.save(options.out)

    common.say(options, zone_table(result))
    if kept := [name for name, target in result.settings["targets"].items() if target is None]:
        common.say(options, f"kept as they are: {', '.join(kept)}")
    common.say(options, f"seed {result.seed}; {result.timings}\nwrote {options.out}")
    common.say_json(options, {"out": options.out, **result_object(result)})
    return 0


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    """The sampling options as keyword arguments of ``ZoneAger.age``."""
    names = ("strength", "steps", "guidance_scale", "seed", "refine", "sequential", "ethnicity")
    return {name: getattr(options, name) for name in names}


def zone_table(result: AgingResult) -> str:
    """Zone, score before, target, score after, and why a zone was skipped."""
    rows = [
        (
            name,
            common.as_percent(zone.score_before),
            common.as_percent(zone.target),
            common.as_percent(zone.score_after),
            f"skipped: {zone.skipped}" if zone.skipped else "",
        )
        for name, zone in result.zones.items()
    ]
    return common.table(rows, ("zone", "before", "target", "after", ""))


def result_object(result: AgingResult) -> dict[str, Any]:
    """The result without its picture, for JSON."""
    return {
        "seed": result.seed,
        "zones": {
            name: {
                "score_before": zone.score_before,
                "target": zone.target,
                "score_after": zone.score_after,
                "skipped": zone.skipped,
            }
            for name, zone in result.zones.items()
        },
        "settings": result.settings,
        "seconds": result.timings.as_dict(),
    }
