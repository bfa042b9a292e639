"""A tenant's facts in its topic's snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from planwire_client.core.commit import BILLING, PUBLISHER
from planwire_client.core.topic import TopicError
from sync.billing.domain.decision import Tenant
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.model import NOTHING, Facts
from sync.billing.storage.environment import checked_topic
from sync.core.errors import SyncError
from sync.store.command_pipeline import CommandPipeline, failure
from sync.store.models import ABSENT, ALL_FIELDS, Change, Snapshot, StoreRejected, snapshot_of
from sync.store.store import Store

FACTS_MARK = b'"subscriptions":{'
"""What facts of builds from before the owner contain. commit.lua looks for it, too."""


class FactsError(SyncError):
    """The facts that billing has stored cannot be read: a newer release wrote them."""


def is_shadow(snapshot: Snapshot) -> bool:
    """Return whether billing computes the topic unseen: readers see what a publisher publishes, or nothing."""
    return bool(snapshot.beside) and snapshot.owner != BILLING


def billed(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot as billing has it: of a shadow, the state and the facts that readers do not see."""
    if not is_shadow(snapshot):
        return snapshot
    return replace(snapshot, state=snapshot.beside, private=snapshot.beside_private, owner=BILLING)


def as_shadow(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot of a topic that billing does not know yet, as the beginning of a shadow."""
    private = b"" if snapshot.erased else snapshot.private
    return replace(snapshot, private=private, owner=PUBLISHER, beside=ABSENT, beside_private=b"")


def in_place(change: Change, snapshot: Snapshot, *, switches: bool) -> Change:
    """Return a change of billing's as readers may see it: in a shadow, its state and facts go beside what they see.

    Args:
        change: the state and the facts that billing computes.
        snapshot: the topic before.
        switches: whether the change ends the topic's shadow, or begins one.
    """
    was_shadow = is_shadow(snapshot)
    if was_shadow == switches:
        return replace(change, beside=(snapshot.state, snapshot.private)) if switches else change
    shown = (snapshot.state, snapshot.private) if was_shadow else (snapshot.beside or ABSENT, snapshot.beside_private)
    # A publisher's event ids may be those of the provider's events.
    event_id = f"shadow {change.event_id}" if change.event_id else ""
    beside = (change.state, change.private)
    return replace(
        change, state=shown[0], private=shown[1], event_id=event_id, previous=None, owner=PUBLISHER, beside=beside
    )


def facts_of(snapshot: Snapshot) -> Facts:
    """Return the tenant's facts in a snapshot's private part.

    An erased public part counts as a tombstone: a gateway that restores what a store lost has no private part. A
    publisher's private part is never facts, whatever it contains.

    Raises:
        FactsError: billing's private part cannot be read.
    """
    if snapshot.erased:
        return Facts(erased_ns=snapshot.version * 1000)
    snapshot = billed(snapshot)
    if not has_facts(snapshot):
        return NOTHING
    try:
        return codec.decode(snapshot.private)
    except ValueError as error:
        raise FactsError(f"{snapshot.topic}: this build cannot read what billing has stored: {error}") from error


async def read_all_facts(store: Store, environment: str, topics: Sequence[str]) -> list[tuple[str, Facts | str]]:
    """Return each of an environment's topics with its facts, in order, in one round trip.

    A topic whose facts cannot be read has the problem instead, so that it does not hide the others.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    batch = CommandPipeline(store)
    for topic in topics:
        batch.command("HMGET", store.keys.snap(topic), *ALL_FIELDS)
    found: list[tuple[str, Facts | str]] = []
    for topic, reply in zip(topics, await batch.attempt(), strict=True):
        try:
            checked_topic(environment, topic)
            if isinstance(reply, Exception):
                raise failure(reply)
            found.append((topic, facts_of(snapshot_of(topic, reply))))
        except (FactsError, StoreRejected, TopicError) as error:
            found.append((topic, str(error)))
    return found


def has_facts(snapshot: Snapshot) -> bool:
    """Return whether billing has stored facts of the tenant, even empty ones."""
    if is_shadow(snapshot):
        return bool(snapshot.beside_private)
    if snapshot.owner:
        return snapshot.owner == BILLING and bool(snapshot.private)
    return FACTS_MARK in snapshot.private


def tenant_of(snapshot: Snapshot) -> Tenant:
    """Return the tenant of a snapshot, as decisions take it.

    Raises:
        FactsError: billing's private part cannot be read.
    """
    snapshot = billed(snapshot)
    facts, is_known = facts_of(snapshot), has_facts(snapshot)
    shown = snapshot.state if is_known else b""
    return Tenant(snapshot.topic, facts, is_known, shown, _published_state(snapshot))


def _published_state(snapshot: Snapshot) -> dict[str, Any] | None:
    """Return the state that a publisher has published and the next commit of billing takes over; None if there is none.

    Builds from before the owner did not store who published a state. A restored one may be billing's own then.
    """
    is_published = snapshot.owner == PUBLISHER or not (snapshot.owner or has_facts(snapshot) or snapshot.restored)
    if not is_published or snapshot.erased or not snapshot.version:
        return None
    state = orjson.loads(snapshot.state)
    return state if isinstance(state, dict) else None


def known_facts(snapshot: Snapshot) -> Facts | None:
    """Return the tenant's facts, or None if they cannot be read."""
    try:
        return facts_of(snapshot)
    except FactsError:
        return None
