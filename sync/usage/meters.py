"""Meters: how the use of a limit is counted. Pure; the catalog's `[meters.KEY]` tables are read into these values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import orjson

from sync.usage.windows import Reset

Kind = Literal["consumable", "allocated", "credits"]
Overage = Literal["deny", "soft", "allow"]
AtChange = Literal["keep", "scale", "reset"]

AMOUNT_MAX = 10**12
"""The greatest amount of one call."""


@dataclass(frozen=True, slots=True)
class Meter:
    """One meter.

    Attributes:
        name: its key in the catalog.
        kind: `consumable`: units that are used up, and come back with the next window. `allocated`: units that are
            taken and given back, such as seats. `credits`: as consumable, and units that were bought or granted once.
        reset: when the count begins anew.
        limit: the name of the limit in the state.
        app: the application whose limit and period count; "" for the tenant's.
        overage: what happens at the limit. `deny`: a call that does not fit is denied. `soft`: a call is allowed while
            anything is left, even if it takes more. `allow`: all calls are allowed.
        at_change: what a change of the plan within a window does to what was used: `keep`, `scale` (the same share of
            the new limit), `reset`.
        thresholds: percentages of the limit that are reported when they are reached, ascending.
    """

    name: str
    kind: Kind
    reset: Reset
    limit: str
    app: str = ""
    overage: Overage = "deny"
    at_change: AtChange = "keep"
    thresholds: tuple[int, ...] = (80, 100)


@dataclass(frozen=True, slots=True)
class Meters:
    """The meters of a catalog, and what a tenant without a state has of their limits.

    Attributes:
        by_name: the meters.
        default: the entitlement state of a tenant without a subscription.
    """

    by_name: Mapping[str, Meter]
    default: Mapping[str, object]

    @property
    def digest(self) -> str:
        """A digest of all that terms are computed from, besides the tenant's state."""
        shown = {name: asdict(meter) for name, meter in self.by_name.items()}
        document = orjson.dumps([shown, self.default], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha1(document, usedforsecurity=False).hexdigest()
