"""Tables, for a terminal and as Markdown, and quantities as text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from benchmarks.speed.record import Record


@dataclass(frozen=True)
class Table:
    """A table of text; numbers are formatted already."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def show(tables: Sequence[Table], file: TextIO | None = None) -> None:
    """Print tables: with rich on a terminal that has it, plainly elsewhere."""
    file = file or sys.stdout
    if file.isatty():
        try:
            from rich.console import Console
            from rich.table import Table as RichTable
        except ImportError:
            pass
        else:
            for table in tables:
                rich = RichTable(title=table.title, title_justify="left")
                for column in table.columns:
                    rich.add_column(column)
                for row in table.rows:
                    rich.add_row(*row)
                Console(file=file).print(rich)
            return
    print("\n\n".join(plain(table) for table in tables), file=file)


def plain(table: Table) -> str:
    """With columns lined up by spaces."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    return "\n".join([table.title, *body])


def markdown(table: Table) -> str:
    """As Markdown, with the title in bold above."""
    rule = "|" + "---|" * len(table.columns)
    lines = [f"| {' | '.join(cells)} |" for cells in (table.columns, *table.rows)]
    return "\n".join([f"**{table.title}**", "", lines[0], rule, *lines[1:]])


def provenance(record: Record) -> str:
    """One line: command, machine, load, versions, bundle."""
    machine = record.machine
    parts = [f"`python -m benchmarks {' '.join(record.arguments)}`", f"{machine.cpu}, {machine.cores} cores"]
    parts += machine.gpus
    if machine.load:
        parts.append(f"load {' → '.join(f'{value:g}' for value in machine.load)}")
    parts.append(", ".join(f"{name} {version}" for name, version in record.versions.items()))
    if record.bundle is not None:
        parts.append(
            f"bundle {record.bundle.name} {record.bundle.version}, {record.bundle.manifest_sha256[:12]}"
        )
    return "; ".join([*parts, record.created])


def seconds(value: float) -> str:
    """Three digits, in s or ms."""
    return f"{value:.3g} s" if value >= 1.0 else f"{1e3 * value:.3g} ms"


def size(value: float) -> str:
    """Bytes in MB, or in GB from 1 GB on."""
    return f"{value / 1e9:.2f} GB" if abs(value) >= 1e9 else f"{value / 1e6:.0f} MB"
