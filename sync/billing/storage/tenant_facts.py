"""A tenant's facts out of its topic's snapshot."""

from __future__ import annotations

from sync.billing.domain import codec
from sync.billing.domain.model import Facts
from sync.core.errors import SyncError
from sync.store.models import Snapshot


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


def is_erased(snapshot: Snapshot) -> bool:
    """Return whether a topic stands at a tombstone."""
    try:
        return facts_of(snapshot).erased_ns is not None
    except FactsError:
        return False
