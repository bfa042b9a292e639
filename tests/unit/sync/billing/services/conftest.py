"""The services on a store in memory, with the example catalog."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from tests.support.services import Billing, billing


@pytest.fixture
def services() -> Iterator[Billing]:
    with billing(CatalogWatcher(EXAMPLE)) as services:
        yield services
