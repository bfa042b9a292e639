"""Adds to changes the snapshots that they replace, so that the store can announce merge patches.

The commit script drops a patch whose base is not stored any more, and announces the whole state alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sync.store.models import Change, Snapshot
from sync.store.store import Store

PATCH_MIN_BYTES = 1024
"""Minimum size of a state that gets a merge patch: below, reading the stored state costs more than the patch saves."""


async def with_previous(store: Store, changes: Sequence[Change]) -> list[Change]:
    """Return the changes, in order, the larger ones with the snapshots they replace; read in one round trip.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    large = [change.topic for change in changes if len(change.state) >= PATCH_MIN_BYTES]
    if not large:
        return list(changes)
    found: dict[str, Snapshot] = {one.topic: one for one in await store.read_many(list(dict.fromkeys(large)))}
    prepared = []
    for change in changes:
        # Of several of a topic only the first replaces what is stored; the script would drop the others' patches.
        previous = found.pop(change.topic, None) if len(change.state) >= PATCH_MIN_BYTES else None
        prepared.append(change if previous is None else replace(change, previous=previous))
    return prepared
