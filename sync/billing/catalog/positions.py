"""The line of each key of a TOML document, which `tomllib` does not report. Pure.

The text must be valid TOML.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

Path = tuple[str, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BEGINNING = re.compile(r"^(?=[ \t]*(?:\[|[^\s#=][^=\n]*=))", re.MULTILINE)
"""Where a statement may begin. A line inside a multi-line list or string can match too."""


def dotted(path: Path) -> str:
    """Return the path as TOML writes a dotted key, with the index of an entry of an array: `versions[0].name`."""
    parts = [part if _is_index(part) or _BARE.fullmatch(part) else f'"{part}"' for part in path]
    return ".".join(parts).replace(".[", "[")


def index(number: int) -> str:
    """Return the part of a path that stands for an entry of an array, counted from 0."""
    return f"[{number}]"


class Lines:
    """The line of every table and key of a document, keys of inline tables included.

    A path without the indexes of arrays is the first entry that has it.
    """

    def __init__(self, text: str) -> None:
        self._text = text.split("\n")
        self._lines: dict[Path, int] = {(): 1}
        self._entries: dict[Path, int] = {}
        table: Path = ()
        statement, line = "", 1
        for part in _BEGINNING.split(text):
            statement += part
            try:
                found = list(_paths(tomllib.loads(statement)))
            except tomllib.TOMLDecodeError:
                continue  # the statement continues in the next part
            if statement.lstrip().startswith("["):
                table = self._table(_named(found[-1]), is_entry=statement.lstrip().startswith("[["))
                found = [table[:length] for length in range(1, len(table) + 1)]
            else:
                found = [(*table, *path) for path in found[1:]]
            for path in found:
                self._lines.setdefault(path, line)
                self._lines.setdefault(_named(path), line)
            line += statement.count("\n")
            statement = ""

    def _table(self, keys: Path, *, is_entry: bool) -> Path:
        """Return the path of the table that a header opens; `[[KEYS]]` opens the next entry of an array."""
        path: Path = ()
        for number, key in enumerate(keys, 1):
            path = (*path, key)
            count = self._entries.get(path, 0)
            if is_entry and number == len(keys):
                self._entries[path] = count + 1
                path = (*path, index(count))
            elif count:
                path = (*path, index(count - 1))
        return path

    def nearest(self, path: Path) -> Path:
        """Return the path if it is in the document, else its nearest parent that is."""
        while path not in self._lines:
            path = path[:-1]
        return path

    def of(self, path: Path, value: str = "", occurrence: int = 1) -> int:
        """Return the line, from 1, of `path` or of its nearest parent that has one.

        Args:
            path: keys from the outside in.
            value: a text to search for from the path's line on, for one entry of a long list.
            occurrence: which occurrence of `value`, from 1.
        """
        line = self._lines[self.nearest(path)]
        if value:
            for number in range(line, len(self._text) + 1):
                occurrence -= self._text[number - 1].count(value)
                if occurrence <= 0:
                    return number
        return line


def _paths(value: object, path: Path = ()) -> Iterator[Path]:
    """Yield the path of a value and of everything in it; entries of a list that are no tables have the list's path."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _paths(inner, (*path, index(number)) if isinstance(inner, dict) else path)


def _named(path: Path) -> Path:
    """Return the path without the indexes of arrays."""
    return tuple(part for part in path if not _is_index(part))


def _is_index(part: str) -> bool:
    return part.startswith("[") and part.endswith("]")
