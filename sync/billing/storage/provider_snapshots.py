"""The provider's last answer about each subscription of a tenant, and when it came: one hash in the topic's slot.

For display beside what is stored; the reducer decides by an answer when it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sync.billing.domain.drift import shown_fields
from sync.billing.domain.model import Event, subscription_key
from sync.store.command_pipeline import CommandPipeline
from sync.store.store import Store


@dataclass(frozen=True, slots=True)
class ProviderSnapshot:
    """One answer: when it was asked for, and the subscription; None if the provider does not know it."""

    at_us: int
    body: dict[str, Any] | None


def record_snapshots(
    batch: CommandPipeline, topic: str, fetched: Sequence[Event], missing: Sequence[str] = (), at_us: int = 0
) -> None:
    """Add to `batch` the provider's answers.

    Args:
        missing: the keys of subscriptions that the provider does not know, asked for at `at_us`.
    """
    answers: list[tuple[str, int, dict[str, object] | None]] = [(key, at_us, None) for key in missing]
    for event in fetched:
        if event.subscription is not None:
            key = subscription_key(event.provider, event.subscription.id)
            answers.append((key, event.order.occurred_ns // 1000, shown_fields(event.subscription)))
    for key, asked_us, body in answers:
        batch.command(
            "HSET", batch.keys.provider_snapshots(topic), key, orjson.dumps({"at_us": asked_us, "body": body})
        )


async def load_snapshots(store: Store, topic: str) -> dict[str, ProviderSnapshot]:
    """Return the last answer about each subscription, by its key; without those that were never asked about.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    batch = CommandPipeline(store)
    batch.command("HGETALL", batch.keys.provider_snapshots(topic))
    (found,) = await batch.run()
    documents = {key.decode(): orjson.loads(value) for key, value in found.items()}
    return {key: ProviderSnapshot(document["at_us"], document["body"]) for key, document in documents.items()}
