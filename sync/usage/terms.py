"""What a tenant's state says of its meters: limits, windows and credits, as the script wants them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from planwire_client.core.commit import BILLING
from sync.billing.catalog.catalog import UNLIMITED, Meter
from sync.core import instants
from sync.core.instants import InstantError
from sync.usage.meters import Meters
from sync.usage.windows import Period, starts

_PERIOD_GOES_ON = ("past_due", "paused", "unpaid", "incomplete")
"""The statuses without a period of their own, in which the last one goes on."""


def terms(meters: Meters, version: str, owner: str, state: bytes, periods: bytes, now_us: int) -> bytes:
    """Return the terms of all meters at one version of the tenant's state, as usage.lua describes them.

    Args:
        meters: the catalog's.
        version: the version of `state`, decimal; "0": there is no state.
        owner: BILLING or PUBLISHER.
        state: the tenant's public state, JSON.
        periods: the periods of the terms before, or empty.
        now_us: the store's time.
    """
    known: Any = orjson.loads(state) or meters.default
    is_billed = owner == BILLING or version == "0"
    before = orjson.loads(periods) if periods else {}
    found: dict[str, Period] = {}
    each: dict[str, Any] = {}
    planned: dict[tuple[str, Period | None], list[int]] = {}
    for name, meter in meters.by_name.items():
        part: Any = known.get("apps", {}).get(meter.app, {}) if meter.app else known
        period = _period(part) or (tuple(before.get(meter.app, ())) if part.get("status") in _PERIOD_GOES_ON else None)
        if period:
            found[meter.app] = period
        window = meter.reset, period or None
        if window not in planned:
            planned[window] = starts(*window, now_us)
        each[name] = {
            "terms": orjson.dumps(_terms(meter, part, is_billed=is_billed)).decode(),
            "windows": planned[window],
            "grants": _grants(meter, part, now_us) if meter.kind == "credits" else [],
        }
    return orjson.dumps({"version": version, "periods": orjson.dumps(found).decode(), "meters": each})


def _terms(meter: Meter, part: Mapping[str, Any], *, is_billed: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "kind": meter.kind,
        "plan": (part.get("plan") or {}).get("key", ""),
        "overage": meter.overage,
        "change": meter.at_plan_change,
        "thresholds": meter.thresholds,
    }
    # Billing leaves out what a plan does not sell. A publisher's state without the limit says nothing of it.
    limit = (part.get("limits") or {}).get(meter.limit, 0 if is_billed else None)
    if limit == UNLIMITED:
        told["limit"] = -1
    elif isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0:
        told["limit"] = limit
    return told


def _period(part: Mapping[str, Any]) -> Period | None:
    try:
        period = part["period"]
        starts_ns, ends_ns = instants.parse(period["starts_at"]), instants.parse(period["ends_at"])
    except (LookupError, TypeError, InstantError):
        return None
    return starts_ns // instants.NS_PER_US, ends_ns // instants.NS_PER_US


def _grants(meter: Meter, part: Mapping[str, Any], now_us: int) -> list[tuple[str, int, int]]:
    """Return the credits that were bought once: (id, amount, end in microseconds or 0 for never)."""
    found = []
    for grant in (part.get("credits") or {}).get(meter.key, ()):
        ends_us = instants.parse(grant["ends_at"]) // instants.NS_PER_US if "ends_at" in grant else 0
        if not ends_us or ends_us > now_us:
            found.append((grant["id"], grant["amount"], ends_us))
    return found
