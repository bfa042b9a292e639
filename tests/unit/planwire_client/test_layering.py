"""The client stands alone: it knows the wire, not the server's code, and installs nothing it does not name."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3] / "clients" / "python"
MODULES = {path.stem: ast.parse(path.read_text("utf-8")) for path in sorted((ROOT / "planwire_client").glob("*.py"))}

PURE = ["change", "document", "errors", "headers", "merge_patch", "snapshot"]
OPTIONAL = {"redis", "django", "sqlalchemy", "psycopg"}
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


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_know_no_clock_no_chance_and_no_network(name: str) -> None:
    impure = {"asyncio", "time", "random", "uuid", "socket", "threading", "httpx2", "websockets", "redis"}
    assert imported(MODULES[name]) & impure == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(MODULES[name])


def test_it_is_marked_as_typed() -> None:
    assert (ROOT / "planwire_client" / "py.typed").exists()
