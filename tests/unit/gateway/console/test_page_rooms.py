"""The console page's rooms: a module imports from its own and from those below, never upwards or in a circle."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from gateway import console

PAGE = Path(console.__file__).parent / "static"

MAY_IMPORT = {
    "model": {"model"},
    "ui": {"ui", "model"},
    "parts": {"parts", "ui", "model", "services"},
    "views": {"views", "parts", "ui", "model", "services"},
    "services": {"services", "ui", "model"},
    "app": {"services", "views", "ui", "model"},
}
"""Services are the modules beside app.js: what talks to the gateway or to the address bar."""

IMPORT = re.compile(r'^(?:import|export) [^;]*?from "([^"]+)";', re.M)
MODULES = sorted(PAGE.rglob("*.js"))


def room(module: Path) -> str:
    folder = module.relative_to(PAGE).parts[0]
    return folder if folder in MAY_IMPORT else "app" if module.name == "app.js" else "services"


def imports(module: Path) -> set[Path]:
    named = {(module.parent / name).resolve() for name in IMPORT.findall(module.read_text())}
    return {path for path in named if path.is_relative_to(PAGE)}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PAGE)))
def test_a_module_imports_from_the_rooms_below(module: Path) -> None:
    above = {path.name for path in imports(module) if room(path) not in MAY_IMPORT[room(module)]}
    assert not above


def test_the_modules_import_one_another_without_circles() -> None:
    graph = {module: imports(module) for module in MODULES}
    assert sum(map(len, graph.values())) > 50
    assert set(TopologicalSorter(graph).static_order()) == set(MODULES)


def test_no_file_of_the_page_is_long() -> None:
    files = [path for path in PAGE.rglob("*") if path.suffix in {".js", ".css", ".html"}]
    assert not [path.name for path in files if len(path.read_text().splitlines()) > 300]
