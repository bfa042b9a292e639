"""Shared counters of rare events, for /metrics: one hash in the store, one field per name and labels.

Several processes add to them, with HINCRBY. Frequent events are counted in each process instead.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from sync.store.command_pipeline import run_commands
from sync.store.models import StoreError
from sync.store.store import Store

CACHE_S = 5.0
"""Minimum time between two reads of the counters."""

Labels = tuple[tuple[str, str], ...]


def field(name: str, **labels: str) -> str:
    """Return a counter's hash field: `name label=value label=value`. No part has spaces or equals signs."""
    return " ".join([name, *(f"{label}={value}" for label, value in labels.items())])


def parse(text: str) -> tuple[str, Labels]:
    """Return the name and the labels of a field that `field` made."""
    name, *labels = text.split(" ")
    return name, tuple((label, value) for label, _, value in (item.partition("=") for item in labels))


class Counters:
    """The counters, as one process has read them last.

    Attributes:
        counts: by name and labels. While the store is unreachable, the last read stays.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read_at = -CACHE_S
        self.counts: Mapping[tuple[str, Labels], int] = {}

    async def refresh(self) -> None:
        """Read the counters, unless they were read within CACHE_S. If the store is unreachable, the last read stays."""
        if time.monotonic() - self._read_at < CACHE_S:
            return
        try:
            self.counts = await read(self._store)
        except StoreError:
            return
        self._read_at = time.monotonic()


async def read(store: Store) -> dict[tuple[str, Labels], int]:
    """Return every counter.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    (found,) = await run_commands(store, ("HGETALL", store.keys.counters))
    return {parse(name.decode()): int(count) for name, count in found.items()}
