"""Text and tables on standard output, laid out for the terminal that shows them.

It decides where lines break. Nothing is ever cut: what does not fit is continued below. Off a terminal nothing is
folded, so that every row stays one line for ``grep``, ``cut`` and friends.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence

import click

GAP = "  "


def terminal_width() -> int | None:
    """Return the columns of the terminal that standard output is, or None when it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def echo_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Write rows in aligned columns; the first row is the heading.

    Columns that a terminal has no room for follow below, each block with the first column again.
    """
    widths = column_widths(rows)
    for number, columns in enumerate(blocks(widths, terminal_width())):
        if number:
            click.echo("")
        for row in rows:
            click.echo(GAP.join(row[column].ljust(widths[column]) for column in columns).rstrip())


def echo_folded(text: str, *, indent: int = 0) -> None:
    """Write one paragraph, on a terminal folded between words; lines after the first are indented."""
    click.echo("\n".join(fold(text, terminal_width(), indent=indent)))


def table_width(rows: Sequence[tuple[str, ...]]) -> int:
    """Return the columns that rows take side by side."""
    widths = column_widths(rows)
    return sum(widths) + len(GAP) * (len(widths) - 1)


def column_widths(rows: Sequence[tuple[str, ...]]) -> list[int]:
    """Return the width of every column; rows may end early."""
    return [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]


def blocks(widths: Sequence[int], width: int | None) -> list[list[int]]:
    """Return the columns of each block: the first and as many more as fit, at least one."""
    found, used = [[0]], widths[0]
    for column in range(1, len(widths)):
        needed = len(GAP) + widths[column]
        if width is not None and used + needed > width and len(found[-1]) > 1:
            found.append([0])
            used = widths[0]
        found[-1].append(column)
        used += needed
    return found


def fold(text: str, width: int | None, *, indent: int = 0) -> list[str]:
    """Return text as lines of at most ``width``, broken between words (one that is longer stands alone).

    Spaces inside of the first line are kept: aligned text stays aligned.
    """
    if width is None or len(text) <= width:
        return [text]
    indent = min(indent, width // 2)
    lines, line = [], ""
    for gap, word in re.findall(r"( *)([^ ]+)", text):
        if line.strip() and len(line) + len(gap) + len(word) > width:
            lines.append(line)
            line = " " * indent + word
        else:
            line += gap + word
    return [*lines, line]
