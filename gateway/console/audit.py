"""The console's audit: who did what to what, when, and with which outcome. One capped stream in the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson

from sync.store.command_pipeline import run_commands
from sync.store.store import Store

KEPT = 1000
"""Approximate number of entries that are stored."""

PARAMETERS_MAX_BYTES = 4096


async def note(
    store: Store, *, who: str, scopes: tuple[str, ...], action: str, target: str, parameters: Mapping[str, Any],
    outcome: str, detail: str, gateway: str,
) -> str:  # fmt: skip
    """Store an entry and return its id.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    given = orjson.dumps(parameters)
    entry = {
        "at": round(time.time(), 3),
        "who": who,
        "scopes": scopes,
        "action": action,
        "target": target,
        "parameters": parameters if len(given) <= PARAMETERS_MAX_BYTES else {"left_out": f"{len(given)} bytes"},
        "outcome": outcome,
        "detail": detail,
        "gateway": gateway,
    }
    (id,) = await run_commands(store, ("XADD", _key(store), "MAXLEN", "~", KEPT, "*", "entry", orjson.dumps(entry)))
    return str(id.decode())


async def page(store: Store, before: str, limit: int) -> tuple[list[dict[str, Any]], str | None]:
    """Return up to `limit` entries older than the cursor `before` ("": the newest), and the next cursor.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    (found,) = await run_commands(
        store, ("XREVRANGE", _key(store), f"({before}" if before else "+", "-", "COUNT", limit)
    )
    entries = [{"id": id.decode(), **orjson.loads(_field(fields))} for id, fields in found]
    return entries, entries[-1]["id"] if len(entries) == limit else None


def _field(fields: Any) -> bytes:
    """Return the value of the one field. redis-py returns a mapping, or a flat list within a pipeline."""
    value: bytes = fields[b"entry"] if isinstance(fields, Mapping) else fields[1]
    return value


def _key(store: Store) -> str:
    return store.keys.console("audit")
