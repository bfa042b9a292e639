"""The current catalog: the file is read again when it changes. After a bad edit the last good catalog stays in use."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import structlog

from sync.billing.catalog import catalog
from sync.billing.catalog.catalog import Catalog, CatalogError

EXAMPLE = Path(catalog.__file__).with_name("example.toml")
"""The catalog of a development set-up without its own."""

_log = structlog.get_logger("sync.catalog")


class CatalogWatcher:
    """The newest usable catalog at `path`, with prices of `providers` (None: any).

    Raises:
        CatalogError: the file cannot be used at the start.
    """

    def __init__(self, path: Path, providers: Collection[str] | None = None) -> None:
        self._path = path
        self._providers = providers
        self._mark = _mark(path)
        self._catalog = catalog.load(path, providers)

    @property
    def current(self) -> Catalog:
        """The catalog, read again if the file has changed; the same object until then."""
        mark = _mark(self._path)
        if mark != self._mark:
            self._mark = mark
            try:
                self._catalog = catalog.load(self._path, self._providers)
            except CatalogError as error:
                _log.error("catalog_not_reloaded", error=str(error))
        return self._catalog


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Return (mtime, size, inode), which changes when the file is edited or replaced; None without a file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
