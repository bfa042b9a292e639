"""docs/security.md and docs/tried-and-held.md: every row names its tests, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAST = {"security.md": 25, "tried-and-held.md": 20}
"""The pages, and how many rows they have at least."""


def rows(page: str) -> list[tuple[str, str]]:
    """What was tried or is threatened, and what shows that it holds, of each row of a page's tables."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"(?m)^\| (?!who tries|tried \||---)(.+) \| .+ \| (.+) \|$", text)


@pytest.mark.parametrize("page", LEAST)
def test_there_are_rows(page: str) -> None:
    assert len(rows(page)) >= LEAST[page]


@pytest.mark.parametrize("page", LEAST)
def test_every_row_names_tests_that_exist(page: str) -> None:
    for attack, shown_by in rows(page):
        named = re.findall(r"`(tests/[a-z0-9_/]+\.py|clients/[a-z0-9_/.-]+\.js)`(?: `(test_\w+)`)?", shown_by)
        assert named, f"no test: {attack}"
        for path, name in named:
            text = (ROOT / path).read_text()
            assert not name or re.search(rf"def {name}\(", text), f"{path} has no {name}"
        assert shown_by.count("`test_") == sum(bool(name) for _, name in named), f"a test without its file: {attack}"
