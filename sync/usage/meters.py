"""The meters of a catalog, and what a tenant without a state has of their limits. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from sync.billing.catalog.catalog import Catalog, Meter
from sync.billing.domain.entitlements.items import Setting
from sync.billing.domain.entitlements.projection import Projected, project
from sync.billing.domain.facts.model import NOTHING
from sync.core.errors import SyncError

AMOUNT_MAX = 10**12
"""The greatest amount of one call."""


@dataclass(frozen=True, slots=True)
class Meters:
    """All that terms are computed from, besides a tenant's own state.

    Attributes:
        by_name: the catalog's meters.
        default: the state of a tenant without a subscription.
        digest: changes with either.
    """

    by_name: Mapping[str, Meter]
    default: Mapping[str, Any]
    digest: str


def meters_of(catalog: Catalog) -> Meters:
    """Return the meters of a catalog."""
    found = project(NOTHING, Setting(catalog, "live", (), 0))
    if not isinstance(found, Projected):
        raise SyncError(found.reason)  # not reached: nothing was bought that the catalog could lack
    shown = {name: meter.model_dump() for name, meter in catalog.meters.items()}
    document = orjson.dumps([shown, found.state], option=orjson.OPT_SORT_KEYS)
    return Meters(catalog.meters, found.state, hashlib.sha1(document, usedforsecurity=False).hexdigest())


class MetersWatcher:
    """Returns the meters of a catalog that may be edited, computed once for each edit."""

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self._catalog = catalog
        self._of: Catalog | None = None

    def __call__(self) -> Meters:
        """Return the present meters."""
        catalog = self._catalog()
        if catalog is not self._of:
            self._of, self._meters = catalog, meters_of(catalog)
        return self._meters
