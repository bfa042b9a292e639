"""Every key of a TOML document is found on its line."""

from __future__ import annotations

import pytest

from sync.billing.catalog.positions import Lines, dotted

TEXT = '''\
# a comment = [not a table]
top = "x # not a comment"

[plans.pro]            # 4
name = "a [b] = {c}"
limits = { seats = 1, "odd key" = "unlimited" }
list = [
  "one",   # 8
  "two",
]
at = 1979-05-27T07:32:00.5Z
ratio = 1.5
prices.paddle.live = ["pri_1"]
text = """
fake = 1
[fake]
"""
after = 1              # 18
literal = 'C:\\no\\escape'
[plans."quo.ted"]
key = [ { inner = 1 }, { inner = 2 } ]
[[many]]
last = true
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 1),
        (("top",), 2),
        (("plans",), 4),
        (("plans", "pro"), 4),
        (("plans", "pro", "name"), 5),
        (("plans", "pro", "limits", "odd key"), 6),
        (("plans", "pro", "list"), 7),
        (("plans", "pro", "at"), 11),
        (("plans", "pro", "ratio"), 12),
        (("plans", "pro", "prices"), 13),
        (("plans", "pro", "prices", "paddle", "live"), 13),
        (("plans", "pro", "text"), 14),
        (("plans", "pro", "after"), 18),
        (("plans", "pro", "literal"), 19),
        (("plans", "quo.ted"), 20),
        (("plans", "quo.ted", "key", "inner"), 21),
        (("many", "last"), 23),
        (("plans", "pro", "absent", "deeper"), 4),
        (("absent",), 1),
    ],
)
def test_lines_finds_each_key(path: tuple[str, ...], line: int) -> None:
    assert Lines(TEXT).of(path) == line


def test_lines_finds_an_entry_of_a_long_list() -> None:
    assert Lines(TEXT).of(("plans", "pro", "list"), '"two"') == 9
    assert Lines(TEXT).of(("plans", "pro", "list"), "nowhere") == 7


def test_dotted_quotes_what_is_not_bare() -> None:
    assert dotted(("plans", "a b", "c-d")) == 'plans."a b".c-d'
