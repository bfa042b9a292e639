"""What an event makes of a tenant as it stands: new facts and their state, or how the event ends without.

The reducer and the projection decide; here is in which order they are asked. It reads and writes no store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import orjson

from sync.billing.catalog.catalog import Catalog
from sync.billing.domain import model
from sync.billing.domain.drift import Drift
from sync.billing.domain.model import Event, Facts
from sync.billing.domain.overrides import in_force
from sync.billing.domain.preview import compare
from sync.billing.domain.projection import Projected, Unprojectable, project, settle
from sync.billing.domain.reducer import Reduced, Refused, Unusable, adopt, reduce
from sync.billing.domain.tenant_resolution import ERASED_ENDING
from sync.billing.storage.inbox import Ending
from sync.core import instants
from sync.core.errors import SyncError
from sync.store.store import Snapshot

WAITS_CATALOG = "catalog"
WAITS_SOFTWARE = "software"
"""What parked events wait on besides links: an edited catalog, or a newer release that can read them."""


class FactsError(SyncError):
    """What a topic keeps in `private` is not a tenant's facts; somebody else wrote it."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The facts and their state, what was dropped for them and which preview they belie."""

    facts: Facts
    projected: Projected
    dropped: str = ""
    missed: Drift | None = None


def decide(snapshot: Snapshot, event: Event, fetched: Event | None, catalog: Catalog, now_ns: int) -> Ending | Decided:
    """Return what the event, and the provider's own answer to it, make of a topic that stands at `snapshot`."""
    topic, version = snapshot.topic, snapshot.version
    try:
        facts = before = facts_of(snapshot)
    except FactsError as error:
        return Ending("parked", str(error), topic, version, (WAITS_SOFTWARE,))
    if facts.erased_ns is not None:
        return ERASED_ENDING
    result = reduce(facts, event)
    if fetched is not None:
        is_new = isinstance(result, Reduced)
        answer = adopt(result.facts if isinstance(result, Reduced) else facts, fetched, confirms=is_new)
        if isinstance(answer, Reduced):
            result = answer
        elif isinstance(result, Unusable) and isinstance(answer, Refused):
            return Ending("unchanged", answer.reason, topic, version)
    match result:
        case Refused(reason):
            return Ending("refused", reason, topic, version)
        case Unusable(reason):
            return Ending("parked", reason, topic, version, (WAITS_SOFTWARE,))
        case Reduced(facts):
            facts, dropped = settle(facts, catalog, event.environment, now_ns)
            projected = project(facts, catalog, event.environment, now_ns)
            if isinstance(projected, Unprojectable):
                reason = f"unknown price {', '.join(projected.price_ids)}"
                return Ending("parked", reason, topic, version, (WAITS_CATALOG,))
            facts, missed = belied(topic, before, facts, projected, now_ns)
            return Decided(facts, projected, dropped, missed)
        case _:
            assert_never(result)


def belied(topic: str, before: Facts, after: Facts, projected: Projected, now_ns: int) -> tuple[Facts, Drift | None]:
    """Return the facts without a preview that has come true or been belied, and the drift where it was belied."""
    facts, differing = compare(before, after, projected, now_ns)
    if not differing or before.expected is None:
        return facts, None
    here = {str(entry["path"]): entry.get("from") for entry in differing}
    there = {str(entry["path"]): entry.get("to") for entry in differing}
    return facts, Drift("preview", topic, before.expected.preview_id, "landed", now_ns // 1000, here, there)


def cause(event: Event, fetched: Event | None, received_us: int, facts: Facts, now_ns: int) -> bytes:
    """Return the cause of a version with these facts that an event makes, as JSON."""
    document: dict[str, object] = {
        "source": event.provider,
        "event_id": event.event_id,
        "event_type": event.type,
        "occurred_at": instants.text(event.order.occurred_ns),
        "received_at": instants.text(received_us * 1000),
    }
    if fetched is not None:
        document["fetched_at"] = instants.text(fetched.order.occurred_ns)
    if facts.overrides:
        document |= in_force(facts, now_ns)
    return orjson.dumps(document)


def facts_of(snapshot: Snapshot) -> Facts:
    """Return the tenant's facts in a snapshot's private part.

    A public part that says so is as good as a tombstone: a gateway that gives a store back what it lost has no other.

    Raises:
        FactsError: something else is there.
    """
    if snapshot.erased:
        return Facts(erased_ns=snapshot.version * 1000)
    try:
        return model.decode(snapshot.private)
    except ValueError as error:
        raise FactsError(f"{snapshot.topic}: its private part is not a tenant's facts: {error}") from error
