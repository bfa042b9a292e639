"""The usage of one meter, as the topic `usage:ID` and `GET /v1/tenants/ID/usage` show it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Credit:
    """Credits that were bought or granted once. `ends_at`: None for never."""

    id: str
    amount: int
    remaining: int
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class MeterUsage:
    """What a tenant has used of a meter.

    Attributes:
        kind: consumable, allocated or credits.
        used: units used, without those reserved.
        limit, remaining: infinity for unlimited; None if the limit is not known.
        status: ok, near, reached, over, or unknown (the limit is not known).
        resets_at: when the count begins anew; None if it does not.
        is_fresh: whether count and limit are proved to be of now, and of the same entitlements as the tenant's topic.
    """

    kind: str
    used: int
    reserved: int
    limit: float | None
    remaining: float | None
    status: str
    resets_at: datetime | None = None
    credits: tuple[Credit, ...] = ()
    is_fresh: bool = True


def read_meter(state: object, meter: str, *, is_fresh: bool = True) -> MeterUsage | None:
    """Return a meter's usage in the state of a usage topic; None if the state does not have it."""
    meters = state.get("meters") if isinstance(state, Mapping) else None
    shown = meters.get(meter) if isinstance(meters, Mapping) else None
    if not isinstance(shown, Mapping):
        return None
    period = shown.get("period")
    return MeterUsage(
        str(shown.get("kind", "")),
        units(shown.get("used")) or 0,
        units(shown.get("reserved")) or 0,
        bound(shown.get("limit")),
        bound(shown.get("remaining")),
        str(shown.get("status", "unknown")),
        instant(period.get("ends_at")) if isinstance(period, Mapping) else None,
        tuple(_credit(one) for one in shown.get("grants", ()) if isinstance(one, Mapping)),
        is_fresh,
    )


def _credit(shown: Mapping[str, object]) -> Credit:
    amount, remaining = units(shown.get("amount")) or 0, units(shown.get("remaining")) or 0
    return Credit(str(shown.get("id", "")), amount, remaining, instant(shown.get("ends_at")))


def units(value: object) -> int | None:
    """Return a whole number of a JSON document, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def bound(value: object) -> float | None:
    """Return a limit of a JSON document: infinity for "unlimited"; None for none."""
    return math.inf if value == "unlimited" else units(value)


def instant(value: object) -> datetime | None:
    """Return an instant of a JSON document, RFC 3339 in UTC, or None."""
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
