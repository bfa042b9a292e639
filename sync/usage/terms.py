"""What a tenant's state says of its meters: limits, windows and credits, as the script wants them. Pure."""

from __future__ import annotations

import re
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

_GRANT_ID = re.compile(r"[A-Za-z0-9._~:-]{1,64}")
_NUMBER_MAX = 2**53 - 1
_LATEST_US = instants.parse("2200-01-01T00:00:00Z") // instants.NS_PER_US
_LONGEST_US = 100 * 366 * 86_400 * 1_000_000
"""A period is at most so long, and ends before the year 2200: the windows after it are instants, too."""


def terms(meters: Meters, version: str, owner: str, state: bytes, periods: bytes, now_us: int) -> bytes:
    """Return the terms of all meters at one version of the tenant's state, as the script describes them.

    What a publisher's state has of another shape than billing's is not known.

    Args:
        meters: the catalog's.
        version: the version of `state`, decimal; "0": there is no state.
        owner: BILLING or PUBLISHER; without a state, who is to compute one.
        state: the tenant's public state, JSON.
        periods: the periods of the terms before, or empty.
        now_us: the store's time.
    """
    stated = _members(orjson.loads(state))
    is_billed = owner == BILLING
    known = meters.default if is_billed and not stated else stated
    before = orjson.loads(periods) if periods else {}
    found: dict[str, Period] = {}
    each: dict[str, Any] = {}
    planned: dict[tuple[str, Period | None], list[int]] = {}
    for name, meter in meters.by_name.items():
        part = _members(_members(known.get("apps")).get(meter.app)) if meter.app else known
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


def _members(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _terms(meter: Meter, part: Mapping[str, Any], *, is_billed: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "kind": meter.kind,
        "plan": _members(part.get("plan")).get("key", ""),
        "overage": meter.overage,
        "change": meter.at_plan_change,
        "thresholds": meter.thresholds,
    }
    # Billing leaves out what a plan does not sell. A publisher's state without the limit says nothing of it.
    limit = _members(part.get("limits")).get(meter.limit, 0 if is_billed else None)
    if limit == UNLIMITED:
        told["limit"] = -1
    elif isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0:
        told["limit"] = min(limit, _NUMBER_MAX)
    return told


def _period(part: Mapping[str, Any]) -> Period | None:
    try:
        period = part["period"]
        starts_us, ends_us = _instant(period["starts_at"]), _instant(period["ends_at"])
    except (LookupError, TypeError, AttributeError, InstantError):
        return None
    is_usable = 0 <= starts_us < ends_us <= _LATEST_US and ends_us - starts_us <= _LONGEST_US
    return (starts_us, ends_us) if is_usable else None


def _instant(text: str) -> int:
    return instants.parse(text) // instants.NS_PER_US


def _grants(meter: Meter, part: Mapping[str, Any], now_us: int) -> list[tuple[str, int, int]]:
    """Return the credits that were bought once: (id, amount, end in microseconds or 0 for never)."""
    found: dict[str, tuple[str, int, int]] = {}
    grants = _members(part.get("credits")).get(meter.key)
    for grant in map(_members, grants if isinstance(grants, list) else ()):
        name, amount = grant.get("id"), grant.get("amount")
        if not isinstance(name, str) or not _GRANT_ID.fullmatch(name) or type(amount) is not int or amount < 1:
            continue
        try:
            ends_us = _instant(grant["ends_at"]) if "ends_at" in grant else 0
        except (TypeError, AttributeError, InstantError):
            continue
        if not ends_us or ends_us > now_us:
            found.setdefault(name, (name, min(amount, _NUMBER_MAX), ends_us))
    return list(found.values())
