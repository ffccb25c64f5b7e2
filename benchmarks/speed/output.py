"""What every speed benchmark does with its record: files, and what is printed."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from agesdk import atomic, strict_json
from agesdk.errors import OutputError, UsageError
from benchmarks.speed import record as records
from benchmarks.speed.record import Record
from benchmarks.speed.tables import Table, provenance, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUT = Path("runs/benchmarks")

RENDERERS = {
    "latency": "benchmarks.speed.latency",
    "compare": "benchmarks.speed.compare",
    "roofline": "benchmarks.speed.roofline",
    "scaling": "benchmarks.speed.scaling",
    "engines": "benchmarks.speed.engine_builds",
}
"""Module by the command that a record names."""


class Renderer(Protocol):
    """What a module of `RENDERERS` offers."""

    def tables(self, record: Record) -> list[Table]:
        """The record's figures."""
        ...

    def plots(self, record: Record) -> list[Callable[[Axes], None]]:
        """The record's plots, side by side; each draws itself into matplotlib axes."""
        ...


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """``--out``, ``--name`` and ``--json``."""
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="FOLDER",
        help="for the record and its plot (default: %(default)s)",
    )
    parser.add_argument("--name", metavar="NAME", help="of both files (default: the command and its subject)")
    parser.add_argument("--json", action="store_true", help="print the record as JSON instead of tables")


def check_output(arguments: argparse.Namespace) -> None:
    """Make the folder before anything is measured; `OutputError` where that can not be."""
    if arguments.name is not None and (
        Path(arguments.name).name != arguments.name or arguments.name in ("", ".", "..")
    ):
        raise UsageError(f"{arguments.name!r} is no file name", fix="Give --out for another folder")
    writable_folder(arguments.out)


def writable_folder(folder: Path) -> Path:
    """The folder, made if it does not exist; `OutputError` where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"{folder} can not be written", error.strerror or str(error), "Give another --out"
        ) from None
    return folder


def publish(record: Record, arguments: argparse.Namespace, default_name: str) -> None:
    """Write the record and its plot, and print its tables."""
    path = arguments.out / f"{arguments.name or default_name}.json"
    records.write(record, path)
    drawn = draw(record, path.with_suffix(".png"))
    if arguments.json:
        print(json.dumps(strict_json.encode(record), indent=1))
    else:
        show(renderer(record).tables(record))
        print(f"\n{provenance(record)}")
    print(f"{path}{' and its .png' if drawn else ''}", file=sys.stderr)


def renderer(record: Record) -> Renderer:
    """The module that renders a record; `UsageError` if its command is not known."""
    if record.command not in RENDERERS:
        raise UsageError(f"The record is of the command {record.command!r}", "this version can not render it")
    return cast(Renderer, importlib.import_module(RENDERERS[record.command]))


def draw(record: Record, path: Path) -> bool:
    """Write the record's plots as one PNG; False where matplotlib is not installed or nothing is to plot."""
    plots = renderer(record).plots(record)
    if not plots:
        return False
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print('no plot: matplotlib is missing; pip install "agesdk[dev]"', file=sys.stderr)
        return False
    columns = min(3, len(plots))
    rows = -(-len(plots) // columns)
    figure = Figure(figsize=(5.0 * columns, 3.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(plots) :]:
        axes.set_visible(False)
    for axes, plot in zip(grid.flat, plots):
        plot(axes)
    figure.suptitle(f"{record.machine.cpu}, {record.machine.cores} cores", fontsize=9)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, metadata={"Software": None})
    atomic.write_bytes(path, data.getvalue())
    return True
