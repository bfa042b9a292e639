"""What several processes count together, and somebody's /metrics shows: one hash of rare counts, kept by the store.

A tally's field is its name and labels; adding is one HINCRBY. What is counted thousands of times a second stays in the
process that counts it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from redis.exceptions import RedisError

from sync.store.store import Store, StoreError

CACHE_S = 5.0
"""For how long counts are not read again, however often they are asked for."""

Labels = tuple[tuple[str, str], ...]


def field(name: str, **labels: str) -> str:
    """Return the hash field of a tally: `name label=value label=value`. Neither has spaces or equals signs in it."""
    return " ".join([name, *(f"{label}={value}" for label, value in labels.items())])


def parse(text: str) -> tuple[str, Labels]:
    """Return the name and the labels of a field that `field` made."""
    name, *labels = text.split(" ")
    return name, tuple((label, value) for label, _, value in (item.partition("=") for item in labels))


class Counters:
    """The counts as one process reads them: seldom, and what was read last while the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read_at = -CACHE_S
        self.counts: Mapping[tuple[str, Labels], int] = {}

    async def refresh(self) -> None:
        """Read the counts, unless they were read within CACHE_S. A store that is away leaves what was known."""
        if time.monotonic() - self._read_at < CACHE_S:
            return
        try:
            self.counts = await read(self._store)
        except StoreError:
            return
        self._read_at = time.monotonic()


async def read(store: Store) -> dict[tuple[str, Labels], int]:
    """Return every count.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    try:
        pipeline = store.redis.pipeline(transaction=False)
        pipeline.hgetall(store.keys.counters)
        async with pipeline:
            (found,) = await pipeline.execute()
    except (RedisError, OSError) as error:
        raise StoreError(f"tallies: {error}") from error
    return {parse(name.decode()): int(count) for name, count in found.items()}
