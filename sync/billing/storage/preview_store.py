"""Previews, kept as long as they may be confirmed: one stream a topic, in the topic's slot."""

from __future__ import annotations

import time
from typing import Any

import orjson

from sync.store.command_pipeline import CommandPipeline
from sync.store.store import Store

KEEP_S = 3_600
"""How long a preview may be confirmed; an older price may not be the provider's any more."""

KEPT = 100
"""Maximum previews of one tenant; beyond it the oldest cannot be confirmed."""


class PreviewStore:
    """The previews of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, topic: str, preview_id: str, document: dict[str, object]) -> None:
        """Keep a preview.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        kept = {"id": preview_id, "until_s": time.time() + KEEP_S, "document": document}
        batch.command("XADD", batch.keys.previews(topic), "MAXLEN", KEPT, "*", "preview", orjson.dumps(kept))
        batch.command("EXPIRE", batch.keys.previews(topic), KEEP_S)
        await batch.run()

    async def get(self, topic: str, preview_id: str) -> dict[str, Any] | None:
        """Return a preview, or None if it is too old or of another tenant.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        batch.command("XREVRANGE", batch.keys.previews(topic), "+", "-")
        (entries,) = await batch.run()
        for _, fields in entries:
            kept = orjson.loads(fields[b"preview"])
            if kept["id"] == preview_id and time.time() < kept["until_s"]:
                document: dict[str, Any] = kept["document"]
                return document
        return None
