"""Which tenants are searched in their provider's whole list: those whose facts the store has lost, and no others.

A search costs a call for each 100 or 200 subscriptions, so browsers may not cause one. A gateway that restores what the
store has lost requests a search, and so does a worker after a lost tail. A browser's version is evidence only if it is
from shortly before the store began, and the store is less than a day old: then the store may have been emptied.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sync.store.command_pipeline import CommandPipeline, Connection, run_commands
from sync.store.delayed_queue import DelayedQueue

LEASE_S = 120.0
"""Lease of a claimed search: a pass through a list of some hundred pages fits into it."""

DAY_S = 86_400
"""Age up to which a store may have been emptied, how much older than it a lost version may be, and how long the search
for a tenant on such evidence is remembered, whatever it has found."""


def searches(store: Connection) -> DelayedQueue:
    """Return the queue of tenants to be searched in the provider's list."""
    return DelayedQueue(store, store.keys.searches, LEASE_S)


async def search_once(store: Connection, topics: Sequence[str]) -> None:
    """Request a search for those of the tenants for which none was requested here within DAY_S.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    batch = CommandPipeline(store)
    for topic in topics:
        batch.command("SET", store.keys.searched(topic), b"1", "NX", "EX", DAY_S)
    new = [topic for topic, is_new in zip(topics, await batch.run(), strict=True) if is_new]
    batch = CommandPipeline(store)
    for topic in new:
        searches(store).schedule_once(batch, topic, 0)
    await batch.run()


async def weigh(store: Connection, held: Mapping[str, int]) -> None:
    """Request a search for the tenants of which a browser holds a version from shortly before the store began.

    Args:
        held: the browser's versions, which the store does not have, by topic.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    (born,) = await run_commands(store, ("GET", store.keys.born))
    born_us, day_us = int(born or 0), DAY_S * 1_000_000
    if time.time() * 1_000_000 < born_us + day_us:
        await search_once(store, [topic for topic, version in held.items() if born_us - day_us < version < born_us])
