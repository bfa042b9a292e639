"""docs/security.md: every row names its tests, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = re.findall(r"(?m)^\| (?!who tries|---)(.+) \| (.+) \| (.+) \|$", (ROOT / "docs" / "security.md").read_text())


def test_there_are_rows() -> None:
    assert len(ROWS) >= 25


def test_every_row_names_tests_that_exist() -> None:
    for attack, _, shown_by in ROWS:
        named = re.findall(r"`(tests/[a-z0-9_/]+\.py)`(?: `(test_\w+)`)?", shown_by)
        assert named, f"no test: {attack}"
        for path, name in named:
            text = (ROOT / path).read_text()
            assert not name or re.search(rf"def {name}\(", text), f"{path} has no {name}"
        assert shown_by.count("`test_") == sum(bool(name) for _, name in named), f"a test without its file: {attack}"
