"""``agesdk demo``: what the embedded model does to a portrait, in one labelled picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from agesdk.cli import common
from agesdk.cli.analyze import all_scores

YOUNGER, OLDER = 0.05, 0.95
PANEL_SIZE = 560


def add_parser(commands: common.Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="age a portrait and write before, zones, younger and older as one picture",
        description="Age the packaged portrait (NASA, public domain) or one of yours. Write before, zones,"
        " younger and older as one labelled picture, and the two results at full size.",
    )
    parser.add_argument("photo", metavar="PHOTO", nargs="?", help="your own portrait")
    parser.add_argument(
        "--out", metavar="DIR", default="agesdk-demo", help="output folder (default: %(default)s)"
    )
    parser.add_argument("--seed", type=common.whole(0), default=7, metavar="N", help="default: %(default)s")
    common.add_face_option(parser)
    common.add_model_options(parser)
    common.add_output_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Age the portrait twice and lay the pictures side by side."""
    from agesdk import drawing
    from agesdk.imaging import write_image

    ager = common.load_ager(options)
    prepared = ager.prepare(
        options.photo if options.photo is not None else demo_portrait(), face=options.face
    )
    folder = common.output_folder(options.out, "Choose another with --out")
    results = {}
    for name, target in (("younger", YOUNGER), ("older", OLDER)):
        with common.progress_bar(options, name) as advance:
            results[name] = ager.age(prepared, target, seed=options.seed, progress=advance)
        results[name].save(folder / f"{name}.png")

    view = drawing.FaceView.around(prepared.image, prepared.face.bbox, PANEL_SIZE)
    before = view.show(prepared.image)
    zones = drawing.draw_zones(before, view.points(prepared.face.landmarks), all_scores(prepared))
    sheet = drawing.labelled_panels(
        [
            ("before", before),
            ("zones, scores in %", zones),
            (f"all zones at {100 * YOUNGER:.0f} %", view.show(results["younger"].image)),
            (f"all zones at {100 * OLDER:.0f} %", view.show(results["older"].image)),
        ]
    )
    path = folder / "demo.png"
    settings = {"younger": YOUNGER, "older": OLDER, "seed": options.seed}
    write_image(path, sheet, settings, icc_profile=prepared.icc_profile)
    seconds = {name: result.timings.total for name, result in results.items()}
    for name, duration in seconds.items():
        common.say(options, f"{name}: {duration:.1f} s, {folder / f'{name}.png'}")
    common.say(options, f"before, zones, younger and older: {path}")
    common.say_json(
        options, {"picture": path, **{name: folder / f"{name}.png" for name in results}, "seconds": seconds}
    )
    return 0


def demo_portrait() -> Path:
    """The packaged portrait: Eileen Collins, photographed by NASA, public domain."""
    import agesdk

    return Path(agesdk.__file__).parent / "data" / "astronaut.jpg"
