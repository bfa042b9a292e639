"""What a worker has found about the checkouts that pages have named. Workers write it; gateways answer pages by it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from sync.store.command_pipeline import run_commands
from sync.store.store import Store

REMEMBERED_S = 600.0
"""Time for which a checkout that was read is not read again."""


class CheckoutRead(StrEnum):
    """What reading a topic's checkout has led to. The values are stored, except the last."""

    APPLIED = "applied"
    """Its subscription is in the topic's state."""
    VOID = "void"
    """It has expired, it sells no subscription, or its subscription cannot be applied."""
    FOREIGN = "foreign"
    """It is not the topic's, or the provider does not show it."""
    INCOMPLETE = "incomplete"
    """It is not paid, or not completely: it has to be read again."""


async def applied_versions(store: Store, checkouts: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Return the versions of the topics whose checkouts are applied, by topic and checkout. The others are left out.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    keys = [("GET", store.keys.checkout_read(topic, checkout)) for topic, checkout in checkouts]
    read = await run_commands(store, *keys)
    applied = [key for key, value in zip(checkouts, read, strict=True) if value == CheckoutRead.APPLIED.encode()]
    return dict(zip(applied, await store.versions([topic for topic, _ in applied]), strict=True))
