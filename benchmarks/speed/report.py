"""``python -m benchmarks report``: render recorded JSON files again: tables, plots, and into a document.

In the document, what stands between ``<!-- record: NAME -->`` and ``<!-- /record -->`` is replaced with the
tables of ``NAME.json``; all other text is left as it was written.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agesdk import atomic
from agesdk.errors import UsageError
from benchmarks.speed.output import draw, renderer
from benchmarks.speed.record import Record, read
from benchmarks.speed.tables import markdown, provenance, show

RECORDS, DOCUMENT = Path("docs/benchmarks"), Path("docs/benchmarks.md")

_SECTION = re.compile(r"(<!-- record: (?P<name>[\w.-]+) -->\n).*?(<!-- /record -->)", re.S)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``report``."""
    parser.add_argument(
        "records",
        nargs="*",
        type=Path,
        metavar="RECORD",
        help=f"print these only (default: all of {RECORDS} into {DOCUMENT})",
    )
    parser.add_argument(
        "--folder", type=Path, default=RECORDS, help="of the document's records (default: %(default)s)"
    )
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Print records, or bring the document and the plots up to date."""
    if arguments.records:
        for path in arguments.records:
            record = read(path)
            with _complete():
                show(renderer(record).tables(record))
            print(f"\n{provenance(record)}\n")
        return 0
    records = {path.stem: read(path) for path in sorted(arguments.folder.glob("*.json"))}
    try:
        text = arguments.document.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{arguments.document} can not be read", error.strerror or str(error)) from None
    where = arguments.folder.name
    for match in _SECTION.finditer(text):
        name = match["name"]
        if name not in records:
            raise UsageError(
                f"{arguments.document} has a place for {name}",
                f"{arguments.folder / name}.json does not exist",
                f"Measure it with --out {arguments.folder} --name {name}, or take the place out",
            )
    with _complete():
        sections = {name: _section(record) for name, record in records.items()}
        drawn = {name: draw(record, arguments.folder / f"{name}.png") for name, record in records.items()}

    def section(match: re.Match[str]) -> str:
        name = match["name"]
        picture = f"![{name}]({where}/{name}.png)\n\n" if drawn[name] else ""
        return f"{match[1]}\n{sections[name]}\n\n{picture}{match[3]}"

    atomic.write_bytes(arguments.document, _SECTION.sub(section, text).encode("utf-8"))
    unused = sorted(set(records) - {match["name"] for match in _SECTION.finditer(text)})
    if unused:
        print(f"not in {arguments.document}: {', '.join(unused)}", file=sys.stderr)
    return 0


@contextmanager
def _complete() -> Iterator[None]:
    """Raise `UsageError` where a record lacks what its tables or plots are made of."""
    try:
        yield
    except (AssertionError, KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UsageError(
            "A record is not complete", f"{type(error).__name__}: {error}", "Measure it again"
        ) from error


def _section(record: Record) -> str:
    parts = [markdown(table) for table in renderer(record).tables(record)]
    return "\n\n".join([*parts, f"<sub>{provenance(record)}</sub>"])
