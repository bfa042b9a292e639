"""The links to a tenant, learned from events, and the tenant's facts in its topic's snapshot.

A subscription has one tenant, the first that was learned. A customer may pay for several; then its link is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from planwire_client.core.commit import PUBLISHER
from sync.billing.domain import codec
from sync.billing.domain.model import NOTHING, Event, Facts, Unparsable
from sync.billing.domain.tenant_resolution import TOMBSTONE, Link, is_unreal, lookup_subjects, subjects
from sync.core.errors import SyncError
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import Snapshot
from sync.store.store import Store

TENANTS_PER_CUSTOMER_READ = 2
"""Two tenants are enough to know that the customer's link is ambiguous."""


class FactsError(SyncError):
    """A topic's `private` part is not a tenant's facts: another writer or a newer release wrote it."""


def facts_of(snapshot: Snapshot) -> Facts:
    """Return the tenant's facts in a snapshot's private part.

    An erased public part counts as a tombstone: a gateway that restores what a store lost has no private part. A
    publisher's private part is never facts, whatever it contains.

    Raises:
        FactsError: the private part holds something else.
    """
    if snapshot.erased:
        return Facts(erased_ns=snapshot.version * 1000)
    if snapshot.owner == PUBLISHER:
        return NOTHING
    try:
        return codec.decode(snapshot.private)
    except ValueError as error:
        raise FactsError(f"{snapshot.topic}: its private part is not a tenant's facts: {error}") from error


def has_facts(snapshot: Snapshot) -> bool:
    """Return whether billing has stored facts of the tenant, even empty ones."""
    return bool(snapshot.private) and snapshot.owner != PUBLISHER


def published_state(snapshot: Snapshot) -> dict[str, Any] | None:
    """Return the state that a publisher has published and the next commit of billing takes over; None if there is none.

    Builds from before the owner did not store who published a state. A restored one may be billing's own then.
    """
    is_published = snapshot.owner == PUBLISHER or not (snapshot.owner or snapshot.private or snapshot.restored)
    if not is_published or snapshot.erased or not snapshot.version:
        return None
    state = orjson.loads(snapshot.state)
    return state if isinstance(state, dict) else None


def known_facts(snapshot: Snapshot) -> Facts | None:
    """Return the tenant's facts, or None if the private part holds something else."""
    try:
        return facts_of(snapshot)
    except FactsError:
        return None


async def find_link(store: Store, event: Event) -> Link | None:
    """Return an event's tenant link, storing it first if the event names a tenant; None if the event needs none.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    batch = CommandPipeline(store)
    query_link(batch, event)
    return read_link(event, await batch.run())


def query_link(batch: CommandPipeline, event: Event | Unparsable) -> None:
    """Add to `batch` the query for an event's tenant; if the event names one, its links are stored too.

    Nothing is added for an event that needs no tenant. Parse the replies with `read_link`.
    """
    if isinstance(event, Unparsable) or event.subscription_id is None or is_unreal(event):
        return
    if event.tenant_id is not None:
        subscription, *customer = _keys(batch, event.environment, subjects(event))
        batch.command("SET", subscription, event.tenant_id, "NX", "GET", get=True)
        for key in customer:
            batch.command("SADD", key, event.tenant_id)
    elif event.subscription is not None:
        look_up(batch, event.environment, lookup_subjects(event))


def read_link(event: Event, replies: Sequence[Any]) -> Link | None:
    """Return an event's tenant link from the replies to `query_link`; None if the event needs no tenant."""
    if not replies:
        return None
    if event.tenant_id is None:
        return looked_up(replies)
    known = replies[0]
    if known is not None and known.decode() != event.tenant_id:
        return Link(event.tenant_id, conflict=known.decode())
    return Link(event.tenant_id, known is None, len(replies) > 1 and bool(replies[1]))


def look_up(batch: CommandPipeline, environment: str, subjects: Sequence[str]) -> None:
    """Add to `batch` the query for the tenant of a subscription and its customer, for `looked_up`."""
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
    """Add to `batch` the removal of the links to a tenant; the subscription's becomes a TOMBSTONE."""
    subscription, *customer = _keys(batch, environment, subjects)
    batch.command("SET", subscription, TOMBSTONE)
    for key in customer:
        batch.command("SREM", key, tenant_id)


def _keys(batch: CommandPipeline, environment: str, subjects: Sequence[str]) -> list[str]:
    return [batch.keys.link(environment, subject) for subject in subjects]
