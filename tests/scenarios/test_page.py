"""docs/scenarios.md lists every scenario, with all of its tests and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "scenarios.md"


def in_tests() -> dict[int, set[tuple[str, str]]]:
    """Scenario -> (file, test), as the tests are named."""
    found: dict[int, set[tuple[str, str]]] = {}
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
                match = re.match(r"test_s(\d+)_", node.name)
                if match:
                    found.setdefault(int(match[1]), set()).add((path.name, node.name))
    return found


def on_page() -> dict[int, str]:
    """Scenario -> what the page says it is shown by, in the page's order."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+) \|$", PAGE.read_text(), re.M)
    return {int(number): shown_by for number, _, shown_by in rows}


def test_the_page_lists_every_scenario_once_and_in_order() -> None:
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.M)]
    assert numbers == sorted(set(numbers))


def test_every_scenario_is_listed_with_its_tests_and_one_without_is_listed_as_open() -> None:
    tests, listed = in_tests(), on_page()
    assert tests.keys() <= listed.keys()
    for number in listed:
        named = set(re.findall(r"`(test_\w+\.py)` `(test_\w+)`", listed[number]))
        assert named == tests.get(number, set()), f"scenario {number}"
        assert listed[number].startswith("open: ") == (not named), f"scenario {number}"
