"""The services in the shadow of a system that answers with a tier, a state and flags."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from tests.support.services import Billing, billing


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Billing]:
    path = tmp_path / "catalog.toml"
    path.write_text(f'{EXAMPLE.read_text()}\n[shadow.fields]\nplan = "tier"\nstatus = "state"\nfeatures = "flags"\n')
    with billing(CatalogWatcher(path)) as services:
        yield services
