"""Output of commands: text with escaped control characters, JSON, tables and durations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from sync.core.plain_text import json_text, plain_lines

Row = Mapping[str, Any]


def say(text: str, *, err: bool = False) -> None:
    """Print lines. Control characters are escaped, because the text may come from elsewhere."""
    click.echo(plain_lines(text), err=err)


def note(text: str) -> None:
    """Print one line on standard error, so that it stays out of pipes."""
    say(f"planwire: {text}", err=True)


def say_json(value: object) -> None:
    """Print a value as one line of JSON with escaped control characters."""
    click.echo(json_text(value))


def say_outcome(as_json: bool, answer: Row) -> None:
    """Print what a command has done: outcome, version and reason, or the whole answer as JSON."""
    if as_json:
        say_json(answer)
    else:
        say(" ".join(str(answer[name]) for name in ("outcome", "version", "reason") if name in answer))


def say_list(
    as_json: bool, found: Sequence[Row], columns: Sequence[str], empty: str, row: Callable[[Row], Row] = dict
) -> None:
    """Print rows, as one line of JSON each or as a table.

    Args:
        as_json: print JSON instead of a table.
        found: the rows.
        columns: the table's columns.
        empty: the line to print instead of an empty table.
        row: returns the cells of a row by column.
    """
    if as_json:
        for one in found:
            say_json(one)
    else:
        say("\n".join(table(columns, list(map(row, found)))) if found else empty)


def table(columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return the lines of a table. A missing or empty cell is shown as `-`."""
    cells = [list(columns), *([str(row.get(name) or "-") for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def span(value_s: float | None) -> str:
    """Return a duration in seconds as readable text: `40 ms`, `2.5 s`, `3 min 20 s`; `-` for None."""
    if value_s is None:
        return "-"
    for unit, unit_s, part, part_s in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if abs(value_s) >= unit_s:
            return f"{int(value_s // unit_s)} {unit} {int(value_s % unit_s // part_s)} {part}"
    return f"{value_s:.1f} s" if abs(value_s) >= 1 else f"{value_s * 1000:.0f} ms"
