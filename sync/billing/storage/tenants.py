"""A tenant's facts in its topic's snapshot."""

from __future__ import annotations

from typing import Any

import orjson

from planwire_client.core.commit import PUBLISHER
from sync.billing.domain.decision import Tenant
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.model import NOTHING, Facts
from sync.core.errors import SyncError
from sync.store.models import Snapshot


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


def tenant_of(snapshot: Snapshot) -> Tenant:
    """Return the tenant of a snapshot, as decisions take it.

    Raises:
        FactsError: the private part holds something else than facts.
    """
    facts, is_known = facts_of(snapshot), has_facts(snapshot)
    shown = snapshot.state if is_known else b""
    return Tenant(snapshot.topic, facts, is_known, shown, _published_state(snapshot))


def _published_state(snapshot: Snapshot) -> dict[str, Any] | None:
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
