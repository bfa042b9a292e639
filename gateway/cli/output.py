"""What commands print: text whose control characters are escaped, JSON, tables and durations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from sync.core.plain_text import json_text, plain_lines


def say(text: str, *, err: bool = False) -> None:
    """Print lines, which may hold foreign text: whatever the terminal would obey is escaped."""
    click.echo(plain_lines(text), err=err)


def note(text: str) -> None:
    """Print one line on standard error, so that it gets into no pipe."""
    say(f"planwire: {text}", err=True)


def say_json(value: object) -> None:
    """Print a value as one line of JSON that the terminal cannot be harmed by."""
    click.echo(json_text(value))


def say_json_lines(values: Sequence[object]) -> None:
    """Print each value as one line of JSON."""
    for value in values:
        say_json(value)


def say_table(columns: Sequence[str], rows: Sequence[Mapping[str, object]], empty: str) -> None:
    """Print a table, or the line `empty` where there are no rows."""
    say("\n".join(table(columns, rows)) if rows else empty)


def table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the lines of a table; a missing or empty cell is `-`."""
    cells = [list(columns), *([str(row.get(name) or "-") for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def span(value_s: float | None) -> str:
    """Return a duration in seconds as people read it: `40 ms`, `2.5 s`, `3 min 20 s`; `-` for None."""
    if value_s is None:
        return "-"
    if abs(value_s) < 1:
        return f"{value_s * 1000:.0f} ms"
    if abs(value_s) < 60:
        return f"{value_s:.1f} s"
    if abs(value_s) < 3600:
        return f"{int(value_s // 60)} min {int(value_s % 60)} s"
    if abs(value_s) < 86_400:
        return f"{int(value_s // 3600)} h {int(value_s % 3600 // 60)} min"
    return f"{int(value_s // 86_400)} d {int(value_s % 86_400 // 3600)} h"
