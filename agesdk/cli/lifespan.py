"""``agesdk lifespan PHOTO OUT``: a face at another age, or at many."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agesdk.cli import common
from agesdk.errors import UsageError

if TYPE_CHECKING:
    from agesdk.lifespan_aging import LifespanAger, LifespanResult

_EPILOG = """examples:
  agesdk lifespan portrait.jpg seventy.png --bundle bundles/cradle2cane --age 31 --gender female --to 70
  agesdk lifespan portrait.jpg out/ --bundle bundles/cradle2cane --age 31 --gender female --sweep 10:80:10"""

_SECONDS_PER_AGE = 0.6
_STRIP_HEIGHT = 256


def add_parser(commands: common.Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "lifespan",
        help="take a face to another age, or through a range of ages",
        description="Take a face to another age with a lifespan-aging bundle (Cradle2Cane).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("photo", metavar="PHOTO", help="JPEG, PNG or WebP")
    parser.add_argument(
        "out", metavar="OUT", help="with --to a picture (.png, .jpg or .webp), with --sweep a folder"
    )
    parser.add_argument("--age", type=common.whole(0), required=True, metavar="N", help="age in the photo")
    parser.add_argument("--gender", required=True, metavar="WORD", help="as in the prompt: female or male")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--to", type=common.whole(0), metavar="N", help="the age wanted")
    which.add_argument("--sweep", type=ages, metavar="FROM:TO:STEP", help="ages wanted, such as 10:80:10")
    group = parser.add_argument_group("method (defaults are the bundle's)")
    group.add_argument("--align", action="store_true", help="take the square around the face, not the middle")
    group.add_argument("--blend", action="store_true", help="put the aged face back into the whole photo")
    group.add_argument("--strength", type=common.number(0, 1), metavar="S", help="of the first pass, 0 to 1")
    group.add_argument("--one-threshold", action="store_true", default=None, help="AdaNI with t1 only")
    group.add_argument("--addition", metavar="TEXT", help="appended to the prompt (needs text encoders)")
    group.add_argument("--latent-chaining", action="store_true", help="no picture between the passes; faster")
    group.add_argument("--seed", type=common.whole(0), metavar="N", help="makes the result repeatable")
    group.add_argument("--batch", type=common.whole(1), default=1, metavar="N", help="pictures made at once")
    group.add_argument("--low-memory", action="store_true", help="drop encoders from memory after use")
    group.add_argument(
        "--animation",
        choices=("mp4", "gif", "none"),
        default="mp4",
        help="film of a sweep (default: %(default)s)",
    )
    common.add_face_option(parser)
    common.add_model_options(parser, kind="lifespan-aging")
    common.add_output_options(parser)
    parser.set_defaults(run=run)


def ages(text: str) -> list[int]:
    """``"10:80:10"`` to ``[10, 20, ..., 80]``; the step may be left out."""
    match = re.fullmatch(r"(\d{1,3}):(\d{1,3})(?::(\d{1,3}))?", text.strip())
    if not match or int(match[3] or 1) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not FROM:TO:STEP, such as 10:80:10")
    start, stop, step = int(match[1]), int(match[2]), int(match[3] or 1)
    if start > stop:
        raise argparse.ArgumentTypeError(f"{text!r} runs backwards; write the younger age first")
    return list(range(start, stop + 1, step))


def run(options: argparse.Namespace) -> int:
    """Age the photo and write the results."""
    from agesdk import atomic
    from agesdk.imaging import output_suffix
    from agesdk.lifespan_aging import LifespanAger

    if options.face is not None and not (options.align or options.blend):
        raise UsageError("--face chooses the face to align to or to put back", fix="Add --align or --blend")
    if options.sweep is None:
        output_suffix(options.out)
        atomic.check_writable(options.out)
        if common.same_file(options.photo, options.out):
            raise UsageError(f"{options.out} is the photo itself", fix="Give another output path")
    else:
        common.output_folder(options.out)
    ager = LifespanAger.load(
        options.bundle,
        options.backend,
        options.provider,
        options.threads,
        text="graphs" if options.addition else None,
        low_memory=options.low_memory,
        precision=options.precision,
    )
    results, pictures, files = _make(ager, options)
    objects = [_object(result, path) for result, path in zip(results, files)]
    if options.sweep is not None:
        common.say_json(options, {"out": options.out, "ages": objects, **_sheets(results, pictures, options)})
    else:
        common.say_json(options, {"out": options.out, **objects[0]})
    common.say(options, _table(objects))
    common.say(options, f"seed {results[0].seed}; wrote {options.out}")
    return 0


def _make(
    ager: LifespanAger, options: argparse.Namespace
) -> tuple[list[LifespanResult], list[Any], list[Path]]:
    """Age, and write every picture as soon as it is there."""
    targets = [options.to] if options.sweep is None else options.sweep
    settings = {
        "strength": options.strength,
        "one_threshold": options.one_threshold,
        "addition": options.addition,
        "latent_chaining": options.latent_chaining,
    }
    results, pictures, files = [], [], []
    with common.progress_bar(options, "aging") as advance:
        person = ager.prepare(
            options.photo, align=options.align, face=options.face if options.align else None
        )
        made = ager.sweep(
            person,
            options.age,
            targets,
            options.gender,
            seed=options.seed,
            batch=options.batch,
            progress=advance,
            **settings,
        )
        for result in made:
            path = Path(options.out)
            if options.sweep is not None:
                path = path / f"age_{result.target_age:03d}.png"
            picture = ager.blend(result, options.face) if options.blend else None
            result.save(path, picture)
            results.append(result)
            pictures.append(result.image)
            files.append(path)
    return results, pictures, files


def _sheets(
    results: Sequence[LifespanResult], pictures: Sequence[Any], options: argparse.Namespace
) -> dict[str, str]:
    """The labelled strip and the film of a sweep; their paths."""
    import cv2

    from agesdk import drawing
    from agesdk.animation import write_animation
    from agesdk.imaging import write_image

    folder = Path(options.out)
    panels = [(f"{options.age} (photo)", results[0].person.image)]
    panels += [(str(result.target_age), picture) for result, picture in zip(results, pictures)]
    small = [
        (label, cv2.resize(picture, (_STRIP_HEIGHT, _STRIP_HEIGHT), interpolation=cv2.INTER_AREA))
        for label, picture in panels
    ]
    strip = folder / "strip.png"
    settings = {"seed": results[0].seed, "ages": [result.target_age for result in results]}
    sheet = drawing.labelled_panels(small, columns=len(small))
    write_image(strip, sheet, settings, digital_source="trainedAlgorithmicMedia")
    written = {"strip": str(strip)}
    if options.animation != "none":
        film = folder / f"sweep.{options.animation}"
        write_animation(film, pictures, _SECONDS_PER_AGE)
        written["animation"] = str(film)
    return written


def _object(result: LifespanResult, path: Path) -> dict[str, Any]:
    """The result without its pictures, for JSON."""
    identity = result.identity()
    return {
        "file": os.fspath(path),
        "target_age": result.target_age,
        "seed": result.seed,
        "settings": result.settings,
        "identity": None
        if identity is None
        else {"first_pass": identity.first_pass, "final": identity.final},
        "seconds": result.timings.as_dict(),
    }


def _table(objects: Sequence[dict[str, Any]]) -> str:
    """Age, strength, steps, identity and seconds of every picture."""
    rows = []
    for item in objects:
        settings, identity = item["settings"], item["identity"]
        rows.append(
            (
                str(item["target_age"]),
                f"{settings['strength']:g} / {settings['identity_strength']:g}",
                " + ".join(str(steps) for steps in settings["steps_run"]),
                "-" if identity is None else f"{identity['final']:.2f}",
                f"{item['seconds']['total']:.1f}",
                item["file"],
            )
        )
    return common.table(rows, ("age", "strength", "steps", "identity", "seconds", ""))
