"""Previews that were given out, kept for as long as they may be confirmed: one key each, in the topic's slot."""

from __future__ import annotations

from typing import Any

import orjson

from sync.billing.batch import Batch
from sync.state.store import Store

KEEP_S = 3_600
"""How long a preview may be confirmed; a price quoted longer ago is not the provider's any more."""


class Quotes:
    """The previews of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, topic: str, preview_id: str, document: dict[str, object]) -> None:
        """Keep a preview.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = Batch(self._store.redis)
        batch.command("SET", _key(topic, preview_id), orjson.dumps(document), "EX", KEEP_S)
        await batch.run()

    async def get(self, topic: str, preview_id: str) -> dict[str, Any] | None:
        """Return a preview, or None where it is too old or of another tenant.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = Batch(self._store.redis)
        batch.command("GET", _key(topic, preview_id))
        (found,) = await batch.run()
        document: dict[str, Any] | None = None if found is None else orjson.loads(found)
        return document


def _key(topic: str, preview_id: str) -> str:
    return f"pw:{{{topic}}}:preview:{preview_id}"
