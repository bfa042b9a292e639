"""The shelf follows its file, and keeps the last catalog that could be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from sync.billing.catalog.catalog import CatalogError
from sync.billing.catalog.watcher import CatalogWatcher

PLAN = '[plans.free]\nname = "{}"\nrank = 0\ndefault = true\n'


def write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_it_follows_edits_and_survives_bad_ones(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    write(path, PLAN.format("One"))
    catalog_watcher = CatalogWatcher(path)
    first = catalog_watcher.current
    assert catalog_watcher.current is first

    write(path, PLAN.format("Two"))
    second = catalog_watcher.current
    assert second != first
    assert second.default.name == "Two"

    write(path, "# the same\n" + PLAN.format("Two"))
    assert catalog_watcher.current == second

    write(path, "[plans")
    assert catalog_watcher.current.default.name == "Two"
    path.unlink()
    assert catalog_watcher.current.default.name == "Two"
    write(path, PLAN.format("Three"))
    assert catalog_watcher.current.default.name == "Three"


def test_it_needs_a_usable_file_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(CatalogError):
        CatalogWatcher(tmp_path / "absent.toml")
