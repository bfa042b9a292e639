"""Arms the outgoing webhooks: whoever is about to change tenants says so first, so that a crash loses no change.

A worker looks at an armed tenant soon after, when its commit has mostly landed, and again when the longest commit has.
It compares what the store has with what each endpoint was told (`sync.webhooks.rounds`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from planwire_client.core.topic import TENANT_KIND
from sync.store.command_pipeline import CommandPipeline, Connection, Script

SOON_US = 200_000
LATE_US = 15_000_000
"""When the second look is. A commit with all its retries is sent within REPLIES_TIMEOUT_S (5 s)."""

_ARM = Script.load(__package__, "webhook_arm")


class Armed(Connection, Protocol):
    """A store with the names of the endpoints that are told of tenants' changes."""

    @property
    def endpoints(self) -> Sequence[str]:
        """Their names."""


def arm(store: Armed, batch: CommandPipeline, topics: Collection[str]) -> None:
    """Add to `batch` that endpoints are told of what `topics` will be; nothing without endpoints.

    Topics that are not tenants are left out. The batch must have succeeded before the change is sent.
    """
    tenants = [topic for topic in topics if _is_tenant(topic)] if store.endpoints else ()
    if tenants:
        keys = store.keys
        batch.script(_ARM, (keys.webhooks("soon"), keys.webhooks("late")), SOON_US, LATE_US, *tenants)


async def arm_now(store: Armed, topics: Collection[str]) -> None:
    """Do `arm` in a round trip of its own.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    batch = CommandPipeline(store)
    arm(store, batch, topics)
    await batch.run()


def _is_tenant(topic: str) -> bool:
    return topic.rpartition("/")[2].startswith(f"{TENANT_KIND}:")
