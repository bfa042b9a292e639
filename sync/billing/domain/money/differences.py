"""Compares amounts line by line: a quote with what a caller expects, and a bill with its quote. Pure.

Both sides are documents of `Money` or `Bill`. A difference has `path`, `from` and `to`; a side without the field lacks
its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from sync.billing.domain.money.model import BILL_AMOUNTS, LINE_AMOUNTS

_AMOUNTS = ("currency", *BILL_AMOUNTS, "due_now", "amount", "at")

Document = Mapping[str, Any]
Difference = dict[str, object]


def from_expected(expected: Document, quoted: Document) -> list[Difference]:
    """Return how a quote differs from what is expected of it, in the fields that are expected.

    An expected amount that the quote does not have is a difference without `to`.
    """
    return list(_differences(expected, quoted, "", is_whole=True))


def from_quoted(quoted: Document, billed: Document) -> list[Difference]:
    """Return how a bill differs from its quote, in the amounts that both have."""
    return list(_differences(quoted, billed, "", is_whole=False))


def _differences(left: Document, right: Document, path: str, *, is_whole: bool) -> Iterator[Difference]:
    yield from _fields(_AMOUNTS, left, right, path, is_whole=is_whole)
    if "lines" in left and "lines" in right:
        yield from _lines(left["lines"], right["lines"], f"{path}lines.", is_whole=is_whole)
    elif "lines" in left and is_whole:
        yield _entry(f"{path}lines", left["lines"], None)
    if "next" in left:
        yield from _differences(left["next"], right.get("next", {}), f"{path}next.", is_whole=is_whole)


def _lines(left: Sequence[Document], right: Sequence[Document], path: str, *, is_whole: bool) -> Iterator[Difference]:
    """Compare the lines of each price: equal ones with each other, then the others in their order."""
    for price_id in dict.fromkeys(line.get("price_id") for line in (*left, *right)):
        ours, theirs = ([line for line in side if line.get("price_id") == price_id] for side in (left, right))
        unmet = []
        # Those that say the most first: one that says little fits many.
        for line in sorted(ours, key=len, reverse=True):
            fitting = [other for other in theirs if not [*_line(line, other, "", is_whole=is_whole)]]
            if not fitting:
                unmet.append(line)
            else:
                theirs.remove(max(fitting, key=lambda other: len(line.keys() & other.keys())))
        unmet.sort(key=ours.index)
        for index, (line, other) in enumerate(zip_longest(unmet, theirs)):
            where = f"{path}{price_id or 'other'}{f'#{index + 1}' if index else ''}"
            if line is None or other is None:
                yield _entry(where, line, other)
            else:
                yield from _line(line, other, f"{where}.", is_whole=is_whole)


def _line(left: Document, right: Document, path: str, *, is_whole: bool) -> Iterator[Difference]:
    return _fields(("quantity", *LINE_AMOUNTS), left, right, path, is_whole=is_whole)


def _fields(
    names: Sequence[str], left: Document, right: Document, path: str, *, is_whole: bool
) -> Iterator[Difference]:
    for name in names:
        if name in left and (is_whole or name in right) and left[name] != right.get(name):
            yield _entry(path + name, left[name], right.get(name))


def _entry(path: str, left: object, right: object) -> Difference:
    entry: Difference = {"path": path}
    return entry | ({"from": left} if left is not None else {}) | ({"to": right} if right is not None else {})
