"""The console's audit: who did what to what, when, and with which outcome. One capped stream in the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from sync.store.command_pipeline import run_commands
from sync.store.store import Store

KEPT = 1000
"""Approximate number of entries that are stored."""

PARAMETERS_MAX_BYTES = 4096


async def note(store: Store, entry: Mapping[str, Any]) -> str:
    """Store an entry and return its id. `parameters` that are too long are left out.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    size = len(orjson.dumps(entry["parameters"]))
    if size > PARAMETERS_MAX_BYTES:
        entry = {**entry, "parameters": {"left_out": f"{size} bytes"}}
    key = store.keys.console("audit")
    (id,) = await run_commands(store, ("XADD", key, "MAXLEN", "~", KEPT, "*", "entry", orjson.dumps(entry)))
    return str(id.decode())


async def page(store: Store, before: str, limit: int) -> tuple[list[dict[str, Any]], str | None]:
    """Return up to `limit` entries older than the cursor `before` ("": the newest), and the next cursor.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    newest = f"({before}" if before else "+"
    (found,) = await run_commands(store, ("XREVRANGE", store.keys.console("audit"), newest, "-", "COUNT", limit))
    entries = [{"id": id.decode(), **orjson.loads(fields[b"entry"])} for id, fields in found]
    return entries, entries[-1]["id"] if len(entries) == limit else None
