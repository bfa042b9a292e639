"""What is kept of a tenant's usage besides the counts: the newest calls, corrections, ended windows. It only reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planwire_client.core.topic import usage_topic
from sync.store.command_pipeline import run_commands
from sync.store.store import Store


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One of the newest calls.

    Attributes:
        at_us: when, microseconds since 1970.
        key: makes it idempotent; "" for none.
        used: what was used afterwards, with what is reserved.
    """

    at_us: int
    meter: str
    operation: str
    amount: int
    key: str
    is_allowed: bool
    used: int


@dataclass(frozen=True, slots=True)
class Correction:
    """What an operator did.

    Attributes:
        how: "to", "by", or the id of the granted credits.
        used: what was used afterwards, with what is reserved.
    """

    at_us: int
    meter: str
    operation: str
    how: str
    amount: int
    used: int
    reason: str
    actor: str


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """What was counted in an ended window.

    Attributes:
        starts_us, ends_us: microseconds since 1970.
        used: units of the limit and of credits that were granted.
        limit: UNLIMITED (-1) for no bound; None: it was not known.
    """

    meter: str
    kind: str
    starts_us: int
    ends_us: int
    used: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class Records:
    """What is kept of one tenant, each the newest first."""

    calls: list[CallRecord]
    corrections: list[Correction]
    windows: list[WindowRecord]


async def read_records(store: Store, tenant: str, meter: str = "") -> Records:
    """Return what is kept of a tenant, of one meter or of all.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    head = store.keys.head(usage_topic(tenant))
    streams = (f"{head}:{name}" for name in ("calls", "adjustments", "periods"))
    replies = await run_commands(store, *(("XREVRANGE", stream, "+", "-") for stream in streams))
    calls, corrections, windows = (
        [(int(id.partition(b"-")[0]) * 1000, _texts(fields)) for id, fields in entries] for entries in replies
    )
    return Records(
        [_call(at_us, of) for at_us, of in calls if meter in ("", of["meter"])],
        [_correction(at_us, of) for at_us, of in corrections if meter in ("", of["meter"])],
        [_window(of) for _, of in windows if meter in ("", of["meter"])],
    )


async def read_windows(store: Store, tenants: list[str]) -> list[list[WindowRecord]]:
    """Return the ended windows of each tenant, the oldest first.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    keys = store.keys
    asked = (("XRANGE", f"{keys.head(usage_topic(tenant))}:periods", "-", "+") for tenant in tenants)
    return [[_window(_texts(fields)) for _, fields in entries] for entries in await run_commands(store, *asked)]


def _texts(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def _call(at_us: int, of: Mapping[str, str]) -> CallRecord:
    return CallRecord(
        at_us, of["meter"], of["operation"], int(of["amount"]), of["key"], of["allowed"] == "1", int(of["used"])
    )


def _correction(at_us: int, of: Mapping[str, str]) -> Correction:
    operation, _, how = of["what"].partition(" ")
    return Correction(at_us, of["meter"], operation, how, int(of["amount"]), int(of["used"]), of["reason"], of["actor"])


def _window(of: Mapping[str, Any]) -> WindowRecord:
    limit = int(of["limit"]) if of["limit"] else None
    return WindowRecord(of["meter"], of["kind"], int(of["starts"]), int(of["ends"]), int(of["used"]), limit)
