"""What installing relies on: pins for everything, and Procfiles that name what exists."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)", line) for line in lines]
    assert all(found), "a line is not name==version"
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def closure() -> set[str]:
    """The canonical names of everything that planwire[dev] needs, by the installed distributions' own word."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    open_, seen = [Requirement(text) for text in texts], set[tuple[str, str]]()
    while open_:
        wanted = open_.pop()
        name = canonicalize_name(wanted.name)
        for extra in {"", *wanted.extras} if name != "planwire" else ():
            if (wanted.marker and not wanted.marker.evaluate({"extra": ""})) or (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in metadata.requires(name) or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    needed.marker = None
                    open_.append(needed)
    return {name for name, _ in seen}


def test_every_distribution_is_pinned() -> None:
    assert closure() <= pins().keys()


def test_pins_fit_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        wanted = Requirement(text)
        if canonicalize_name(wanted.name) != "planwire":
            assert wanted.specifier.contains(pins()[canonicalize_name(wanted.name)]), text


@pytest.mark.parametrize(
    ("name", "processes"), [("Procfile", ["web", "worker"]), ("Procfile.dev", ["store", "web", "worker", "simulator"])]
)
def test_procfile_names_modules_that_exist(name: str, processes: list[str]) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if line]
    assert [line.partition(":")[0] for line in lines] == processes
    for line in lines:
        module = re.search(r"python -m ([\w.]+)$", line)
        assert module, line
        assert importlib.util.find_spec(module[1]), line
