"""What is kept of a tenant's usage besides the counts: the newest calls, corrections, ended windows. It only reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sync.store.command_pipeline import CommandPipeline, run_commands
from sync.store.store import Store
from sync.usage.calls import MADE_KEY
from sync.usage.script import HOLD_KEY

CALLS_SHOWN = 100
"""Calls of a tenant that are shown. The script keeps a few more."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One of the newest calls.

    Attributes:
        at_us: when, microseconds since 1970.
        key: makes it idempotent; "" for none. Of a reservation, its id.
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
    keys, pipeline = store.keys, CommandPipeline(store)
    pipeline.command("LRANGE", keys.usage(tenant, "calls"), 0, CALLS_SHOWN - 1)
    pipeline.command("XREVRANGE", keys.usage(tenant, "adjustments"), "+", "-")
    pipeline.command("XREVRANGE", keys.usage(tenant, "periods"), "+", "-")
    lines, adjusted, ended = await pipeline.run()
    calls = [_call(line.decode()) for line in lines]
    corrections = [_correction(int(id.partition(b"-")[0]) * 1000, _texts(fields)) for id, fields in adjusted]
    windows = [_window(_texts(fields)) for _, fields in ended]
    return Records(
        [one for one in calls if meter in ("", one.meter)],
        [one for one in corrections if meter in ("", one.meter)],
        [one for one in windows if meter in ("", one.meter)],
    )


async def read_windows(store: Store, tenants: list[str]) -> list[list[WindowRecord]]:
    """Return the ended windows of each tenant, the oldest first.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    keys = store.keys
    asked = (("XRANGE", keys.usage(tenant, "periods"), "-", "+") for tenant in tenants)
    return [[_window(_texts(fields)) for _, fields in entries] for entries in await run_commands(store, *asked)]


def _texts(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def _call(line: str) -> CallRecord:
    at_us, operation, meter, amount, used, allowed, key = line.split(" ", 6)
    own_key = "" if key.startswith(MADE_KEY) else key.removeprefix(HOLD_KEY)
    return CallRecord(int(at_us), meter, operation, int(amount), own_key, allowed == "1", int(used))


def _correction(at_us: int, of: Mapping[str, str]) -> Correction:
    operation, _, how = of["what"].partition(" ")
    return Correction(at_us, of["meter"], operation, how, int(of["amount"]), int(of["used"]), of["reason"], of["actor"])


def _window(of: Mapping[str, Any]) -> WindowRecord:
    limit = int(of["limit"]) if of["limit"] else None
    return WindowRecord(of["meter"], of["kind"], int(of["starts"]), int(of["ends"]), int(of["used"]), limit)
