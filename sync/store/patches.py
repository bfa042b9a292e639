"""Merge patches of large states: what a commit needs so that the store can announce one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sync.store.models import Change
from sync.store.store import Store

PATCH_MIN_BYTES = 1024
"""Minimum size of a state with a merge patch. For smaller ones, reading the stored state costs more than it saves."""


async def with_previous(store: Store, changes: Sequence[Change]) -> list[Change]:
    """Return the changes, in order, and add the stored snapshots to the larger ones (one round trip).

    With them the store can announce merge patches. If a patch's base is not stored any more, the commit script drops
    the patch and announces the whole state only.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    large = dict.fromkeys(change.topic for change in changes if len(change.state) >= PATCH_MIN_BYTES)
    if not large:
        return list(changes)
    found = {one.topic: one for one in await store.read_many(list(large))}
    # Of several changes of a topic, only the first replaces the stored state; the others get no patch.
    return [
        replace(change, previous=found.pop(change.topic, None)) if len(change.state) >= PATCH_MIN_BYTES else change
        for change in changes
    ]
