"""A tenant's facts in its topic's snapshot."""

from __future__ import annotations

from typing import Any

import orjson

from planwire_client.core.commit import BILLING, PUBLISHER
from sync.billing.domain.decision import Tenant
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.model import NOTHING, Facts
from sync.core.errors import SyncError
from sync.store.models import Snapshot

FACTS_MARK = b'"subscriptions":{'
"""What facts of builds from before the owner contain. commit.lua looks for it, too."""


class FactsError(SyncError):
    """The facts that billing has stored cannot be read: a newer release wrote them."""


def facts_of(snapshot: Snapshot) -> Facts:
    """Return the tenant's facts in a snapshot's private part.

    An erased public part counts as a tombstone: a gateway that restores what a store lost has no private part. A
    publisher's private part is never facts, whatever it contains.

    Raises:
        FactsError: billing's private part cannot be read.
    """
    if snapshot.erased:
        return Facts(erased_ns=snapshot.version * 1000)
    if not has_facts(snapshot):
        return NOTHING
    try:
        return codec.decode(snapshot.private)
    except ValueError as error:
        raise FactsError(f"{snapshot.topic}: this build cannot read what billing has stored: {error}") from error


def has_facts(snapshot: Snapshot) -> bool:
    """Return whether billing has stored facts of the tenant, even empty ones."""
    if snapshot.owner:
        return snapshot.owner == BILLING and bool(snapshot.private)
    return FACTS_MARK in snapshot.private


def tenant_of(snapshot: Snapshot) -> Tenant:
    """Return the tenant of a snapshot, as decisions take it.

    Raises:
        FactsError: billing's private part cannot be read.
    """
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
