"""The client stands alone: it imports what its own pyproject.toml names."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3] / "clients" / "python"
MODULES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8"))
    for path in sorted((ROOT / "planwire_client").rglob("*.py"))
}

OPTIONAL = {"redis", "django", "sqlalchemy", "psycopg", "fastapi"}
"""What is imported only where somebody uses it."""


def imported(tree: ast.AST) -> set[str]:
    """The top-level names of everything imported, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("name", sorted(MODULES))
def test_it_imports_only_itself_and_what_it_names(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {Requirement(text).name for text in project["dependencies"]}
    foreign = imported(MODULES[name]) - set(sys.stdlib_module_names) - {"planwire_client"}
    assert foreign <= named | OPTIONAL


def test_it_is_marked_as_typed() -> None:
    assert (ROOT / "planwire_client" / "py.typed").exists()
