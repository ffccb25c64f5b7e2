"""What the commands share: options, percentages, progress bars and tables."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agesdk.errors import OutputError

if TYPE_CHECKING:
    from agesdk.zone_aging import ZoneAger

Commands = Any
"""What ``add_subparsers`` returns; argparse has no public name for it."""


def add_model_options(parser: argparse.ArgumentParser, kind: str = "zone-aging") -> None:
    """Which bundle, and on what it runs; only zone aging has an embedded bundle."""
    group = parser.add_argument_group("model")
    embedded = kind == "zone-aging"
    group.add_argument(
        "--bundle",
        metavar="PATH",
        required=not embedded,
        help=f"{kind} bundle folder" + (" (default: the embedded one)" if embedded else ""),
    )
    group.add_argument("--backend", default="onnxruntime", help="inference engine (default: %(default)s)")
    group.add_argument(
        "--provider", help="of onnxruntime: cpu, cuda, tensorrt or tensorrt-rtx (default: cpu)"
    )
    group.add_argument(
        "--threads", type=whole(1), metavar="N", help="CPU threads (default: all physical cores)"
    )
    group.add_argument(
        "--precision",
        default="auto",
        help="fp32, fp16 or int8, where the bundle carries it (default: what it prefers on this device)",
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How the model samples; defaults are the bundle's."""
    group = parser.add_argument_group("sampling (defaults are the bundle's)")
    group.add_argument(
        "--strength", type=number(0, 1), metavar="S", help="how far a zone is re-made, above 0 to 1"
    )
    group.add_argument("--steps", type=whole(1), metavar="N", help="steps of the full schedule")
    group.add_argument(
        "--guidance-scale", type=number(0, 50), metavar="G", help="classifier-free guidance above 1"
    )
    group.add_argument("--seed", type=whole(0), metavar="N", help="makes the result repeatable")
    group.add_argument(
        "--refine", action="store_true", help="finish with the bundle's refiner, if it has one"
    )
    group.add_argument(
        "--sequential", action="store_true", default=None, help="one zone after the other, not in waves"
    )
    group.add_argument(
        "--ethnicity", metavar="TEXT", help="of the person, if the bundle's condition can name one"
    )


def add_face_option(parser: argparse.ArgumentParser) -> None:
    """Which face of several."""
    parser.add_argument(
        "--face",
        type=whole(0),
        metavar="N",
        help="index of the face, largest first (default: the largest that is certainly a face)",
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """How much is said, and in which form."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON object on stdout instead of text")
    group.add_argument("--quiet", action="store_true", help="no progress bar, no text; errors only")


def load_ager(options: argparse.Namespace) -> ZoneAger:
    """The ager that the model options describe."""
    from agesdk.zone_aging import ZoneAger

    return ZoneAger.load(
        options.bundle, options.backend, options.provider, options.threads, options.precision
    )


def percent(text: str) -> float:
    """``"80"`` or ``"80%"`` to 0.8."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage; write 0 to 100") from None
    if not 0 <= value <= 100:  # NaN fails too
        raise argparse.ArgumentTypeError(f"{text} is outside 0 to 100 percent")
    return value / 100


def whole(low: int) -> Callable[[str], int]:
    """An argparse type: an integer of at least ``low``."""

    def integer(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"{text} is below {low}")
        return value

    return integer


def number(low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a number in ``low..high``."""

    def real(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and low <= value <= high):
            raise argparse.ArgumentTypeError(f"{text} is outside {low:g} to {high:g}")
        return value

    return real


@contextmanager
def progress_bar(options: argparse.Namespace, label: str) -> Iterator[Callable[[int, int, str], bool]]:
    """A callback ``(done, total, stage)`` that moves a bar on stderr, shown on a terminal only."""
    from tqdm import tqdm

    bar_format = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}]{postfix}"
    with tqdm(
        total=0, desc=label, leave=False, disable=True if options.quiet else None, bar_format=bar_format
    ) as bar:

        def advance(done: int, total: int, stage: str) -> bool:
            bar.total = total
            bar.set_postfix_str(stage, refresh=False)
            bar.update(done - bar.n)
            return True

        yield advance


def say(options: argparse.Namespace, text: str) -> None:
    """Print for people: nothing with ``--quiet`` or ``--json``."""
    if not options.quiet and not options.json:
        print(text)


def say_json(options: argparse.Namespace, values: Mapping[str, Any]) -> None:
    """Print for programs: the object, with ``--json`` only."""
    if options.json:
        print(json.dumps(values, indent=2, default=_plain))


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Text columns, the first left-aligned, the others right-aligned but for the last."""
    widths = [max(len(row[index]) for row in (header, *rows)) for index in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1])]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def as_percent(score: float | None) -> str:
    """``0.314`` to ``"31 %"``; None to a dash."""
    return "-" if score is None else f"{100 * score:.0f} %"


def same_file(first: str, second: str) -> bool:
    """Whether two paths name one existing file."""
    try:
        return os.path.samefile(first, second)
    except (OSError, ValueError):
        return False


def _plain(value: Any) -> Any:
    """numpy scalars and arrays, tuples and paths for ``json.dumps``."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def output_folder(name: str, fix: str = "Choose another") -> Path:
    """A folder to write into, made if it does not exist; `OutputError` where that fails."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"The folder {folder} can not be made", getattr(error, "strerror", None) or str(error)
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {folder} is not writable", fix=fix)
    return folder
