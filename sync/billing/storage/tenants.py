"""What leads to a tenant, and what is known of it: links learned from events, and the facts in a topic's snapshot.

A subscription has one tenant, the first that was learned. A customer may pay for several; then it tells nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sync.billing.domain import codec
from sync.billing.domain.model import Event, Facts, Unparsable
from sync.billing.domain.tenant_resolution import TOMBSTONE, Link, is_unreal, subjects
from sync.core.errors import SyncError
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import Snapshot
from sync.store.store import Store

TENANTS_PER_CUSTOMER_READ = 2
"""Two tenants are enough to know that the customer does not tell which one is meant."""


class FactsError(SyncError):
    """A topic's `private` part is not a tenant's facts: another writer made it, or a newer release."""


def facts_of(snapshot: Snapshot) -> Facts:
    """Return the tenant's facts in a snapshot's private part.

    An erased public part is as good as a tombstone: a gateway that gives a store back what it lost has no private part.

    Raises:
        FactsError: something else is there.
    """
    if snapshot.erased:
        return Facts(erased_ns=snapshot.version * 1000)
    try:
        return codec.decode(snapshot.private)
    except ValueError as error:
        raise FactsError(f"{snapshot.topic}: its private part is not a tenant's facts: {error}") from error


def known_facts(snapshot: Snapshot) -> Facts | None:
    """Return the same, or None if something else is there."""
    try:
        return facts_of(snapshot)
    except FactsError:
        return None


async def find_link(store: Store, event: Event) -> Link | None:
    """Return what the links say about an event's tenant, which they learn if it names one; None if it needs none.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    batch = CommandPipeline(store)
    query_link(batch, event)
    return read_link(event, await batch.run())


def query_link(batch: CommandPipeline, event: Event | Unparsable) -> None:
    """Add to `batch` the query for an event's tenant; an event that names one teaches the links.

    Nothing is added for an event that needs no tenant. `read_link` takes the replies.
    """
    if isinstance(event, Unparsable) or event.subscription_id is None or is_unreal(event):
        return
    if event.tenant_id is not None:
        subscription, *customer = _keys(batch, event.environment, subjects(event))
        batch.command("SET", subscription, event.tenant_id, "NX", "GET", get=True)
        for key in customer:
            batch.command("SADD", key, event.tenant_id)
    elif event.subscription is not None:
        look_up(batch, event.environment, subjects(event))


def read_link(event: Event, replies: Sequence[Any]) -> Link | None:
    """Return what the links say about an event, from the replies to `query_link`; None if it needs no tenant."""
    if not replies:
        return None
    if event.tenant_id is None:
        return looked_up(replies)
    known = replies[0]
    if known is not None and known.decode() != event.tenant_id:
        return Link(event.tenant_id, conflict=known.decode())
    return Link(event.tenant_id, known is None, len(replies) > 1 and bool(replies[1]))


def look_up(batch: CommandPipeline, environment: str, subjects: Sequence[str]) -> None:
    """Add to `batch` the query for the tenant of a subscription and its customer; `looked_up` takes the replies."""
    subscription, *customer = _keys(batch, environment, subjects)
    batch.command("GET", subscription)
    for key in customer:
        batch.command("SRANDMEMBER", key, TENANTS_PER_CUSTOMER_READ)


def looked_up(replies: Sequence[Any]) -> Link:
    """Return the link after `look_up`: the subscription's tenant, else the customer's only one, else none."""
    if replies[0] is not None:
        return Link(replies[0].decode())
    tenants = list(replies[1]) if len(replies) > 1 else []
    return Link(tenants[0].decode() if len(tenants) == 1 else None)


def erase_links(batch: CommandPipeline, environment: str, subjects: Sequence[str], tenant_id: str) -> None:
    """Add to `batch` the end of what leads to a tenant; its subscription gets a TOMBSTONE."""
    subscription, *customer = _keys(batch, environment, subjects)
    batch.command("SET", subscription, TOMBSTONE)
    for key in customer:
        batch.command("SREM", key, tenant_id)


def _keys(batch: CommandPipeline, environment: str, subjects: Sequence[str]) -> list[str]:
    return [batch.keys.link(environment, subject) for subject in subjects]
