"""The end of every decision: the state of the new facts, compared with what was published and foreseen. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sync.billing.domain.entitlements.awaited import check_awaited
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.projection import Projected, State, Unprojectable, project
from sync.billing.domain.entitlements.scheduled_changes import without_void_changes
from sync.billing.domain.entitlements.takeover import take_over, without_ended_grants
from sync.billing.domain.entitlements.unknown_items import keep_published
from sync.billing.domain.entitlements.wakeups import next_wakeup_us
from sync.billing.domain.facts.customers import second_customer_drift
from sync.billing.domain.facts.drift import Drift
from sync.billing.domain.facts.model import NOTHING, Event, Facts


class Tenant(NamedTuple):
    """A tenant as it is stored when a decision is made.

    Attributes:
        facts: NOTHING if none are stored.
        is_known: whether facts are stored, even empty ones. If not, the topic is new or a publisher's, or the store
            has lost the facts.
        shown: the state that billing has published last; empty for none.
        published: the state that billing takes over from a publisher; None for a topic that is its own, or new.
    """

    topic: str
    facts: Facts = NOTHING
    is_known: bool = False
    shown: bytes = b""
    published: State | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """Facts and their state, to be committed.

    Attributes:
        wake_us: next wakeup of the topic, microseconds since 1970; None for never.
        note: why a part of the request is not in them, or what was dropped; "" for neither.
        drifts: the records about a preview that differs from the result, a second customer, a published plan.
        waits: what unknown prices wait on; an event is parked beside its commit.
        unknown: the reason that names all unknown prices of the tenant; "" if there are none.
        is_parked: whether the event is parked, since it shows nothing that the catalog knows.
        is_stale: whether the event is not the newest of its subscription; then `note` says why.
    """

    facts: Facts
    state: State
    wake_us: int | None
    note: str = ""
    drifts: tuple[Drift, ...] = ()
    waits: tuple[str, ...] = ()
    is_parked: bool = False
    is_stale: bool = False
    unknown: str = ""


def conclude(
    tenant: Tenant, after: Facts, setting: Setting, note: str, events: Sequence[Event]
) -> Decided | Unprojectable:
    """Project the new facts, keep a published plan, and compare the result with an awaited preview.

    Args:
        events: what `after` is made from.
    """
    topic, before, published = tenant.topic, tenant.facts, tenant.published
    after, dropped = without_void_changes(without_ended_grants(after, (), setting), setting)
    projected = project(after, setting)
    if after.kept is not None or isinstance(projected, Unprojectable):
        after = keep_published(before, after, tenant.shown, setting)
        projected = project(after, setting)
    drifts: tuple[Drift, ...] = ()
    if published is not None and isinstance(projected, Projected):
        after, projected, drifts = take_over(topic, after, projected, published, events, setting)
    if isinstance(projected, Unprojectable):
        return projected
    facts, misses = check_awaited(before, after, projected, setting.now_ns)
    drifts += second_customer_drift(topic, before, after, setting.now_ns)
    for preview_id, differing, why in misses:
        here = {str(entry["path"]): entry.get("from") for entry in differing}
        there = {str(entry["path"]): entry.get("to") for entry in differing}
        drifts += (Drift("preview", topic, preview_id, why, setting.now_ns // 1000, here, there),)
    wake_us = next_wakeup_us(projected, facts, setting)
    return Decided(facts, projected.state, wake_us, note or dropped, drifts, unknown=projected.unknown)
