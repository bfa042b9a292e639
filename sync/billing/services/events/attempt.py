"""One attempt at one event: the values that the stages of `ingest` pass on, and the decision about its topic."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from planwire_client.core import canonical_json
from sync.billing.catalog.catalog import Catalog
from sync.billing.domain.decision import Decided, Delivery, decide, decide_without_event
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.overrides import active_overrides
from sync.billing.domain.entitlements.unknown_items import items_subject, unblocks
from sync.billing.domain.facts.model import Event, Facts, Unparsable, subscription_key
from sync.billing.domain.outcome import ERASED_REASON, WAITS_SOFTWARE, EventResult, Outcome
from sync.billing.domain.tenant_resolution import Link, subjects
from sync.billing.services.committer import Commit, Decision, Write
from sync.billing.storage.tenants import FactsError, tenant_of
from sync.core import instants
from sync.store.models import Snapshot


class Answer(NamedTuple):
    """The provider's current subscription; None without an answer, and `is_away` if it has to be asked later."""

    fetched: Event | None = None
    is_away: bool = False


class Attempt(NamedTuple):
    """One attempt at one stored event, and the stages' findings so far.

    Attributes:
        number: number of attempts so far, this one included; 0 for a parked event.
        received_us: when the event was first received, microseconds since 1970.
        catalog: the catalog at its start.
        claim: the claim of the event; "" for none.
        link: the event's tenant link; None if the event needs no tenant.
        snapshot: the topic, if it was read together with the links.
        topic: the tenant's topic, once it is resolved.
        answer: the provider's answer, once it was asked.
        unblocks: what parked events wait on that can be used now.
    """

    event: Event
    environment: str
    number: int
    received_us: int
    catalog: Catalog
    link: Link | None = None
    snapshot: Snapshot | None = None
    topic: str = ""
    answer: Answer | None = None
    claim: str = ""
    unblocks: tuple[str, ...] = ()

    def ended(self, result: EventResult) -> Processed:
        """Return the end of the attempt. Without a commit, the catalog is that of its start."""
        return Processed(
            self.environment,
            self.event,
            result,
            received_us=self.received_us,
            answer=self.answer,
            catalog=self.catalog,
            link=self.link,
            claim=self.claim,
        )


class Processed(NamedTuple):
    """A processed event, to be finished.

    Attributes:
        received_us: when the event was first received, microseconds since 1970; 0 if that is not known.
        catalog: the catalog of the decision.
        rechecks_link: whether the event is parked for lack of a link that may have been learned meanwhile.
        link: as of the attempt.
        unblocks: what parked events wait on that can be used now.
        retry_s: delay after which the event, which stays pending, is retried; None: the event ends.
        is_recovered: whether an earlier attempt has committed the event, and may have had another reason.
    """

    environment: str
    event: Event | Unparsable
    result: EventResult
    received_us: int = 0
    answer: Answer | None = None
    commit: Commit | None = None
    catalog: Catalog | None = None
    rechecks_link: bool = False
    unblocks: tuple[str, ...] = ()
    retry_s: float | None = None
    link: Link | None = None
    claim: str = ""
    is_recovered: bool = False


def unblocked_by(event: Event, commit: Commit, setting: Setting) -> tuple[str, ...]:
    """Return what parked events wait on that can be used after the commit of an event.

    Events that are parked as a second customer's can be used once the tenant is beyond doubt.
    """
    decision = commit.decision
    if decision.write is None or event.subscription is None:
        return ()
    key = subscription_key(event.provider, event.subscription.id)
    was, now = decision.before.subscriptions.get(key), decision.after.subscriptions.get(key)
    is_vouched_now = now is not None and now.is_vouched and (was is None or not was.is_vouched)
    items = (items_subject(key),) if unblocks(decision.before, decision.after, key, setting) else ()
    return (*items, *subjects(event)) if is_vouched_now else items


def unparsable(environment: str, event: Unparsable, claim: str) -> Processed:
    """Return the end of an event that this build cannot read."""
    result = EventResult(Outcome.PARKED, f"unparsable: {event.problem}", waits=(WAITS_SOFTWARE,))
    return Processed(environment, event, result, claim=claim)


def decide_attempt(attempt: Attempt, snapshot: Snapshot, setting: Setting, moved_us: int = 0) -> Decision:
    """Return the decision about the event's topic at `snapshot`.

    Args:
        moved_us: the least time of the move that gave the subscription to the topic, if its link does not know it.
    """
    topic, event, answer = attempt.topic, attempt.event, attempt.answer or Answer()
    try:
        tenant = tenant_of(snapshot)
    except FactsError as error:
        return Decision(EventResult(Outcome.PARKED, str(error), topic, snapshot.version, (WAITS_SOFTWARE,)))
    facts, is_again, event_id = tenant.facts, attempt.number != 1, event.event_id
    moved_us = max(moved_us, attempt.link.moved_us if attempt.link is not None else 0)
    delivery = Delivery(event, answer.fetched, attempt.received_us * 1000, moved_us, is_again)
    decided = decide(tenant, delivery, setting)
    is_refused = isinstance(decided, EventResult) and decided.outcome is Outcome.REFUSED
    if is_refused and is_again and tenant.is_known and not snapshot.restored:
        # What it waited for may have changed what the facts mean: a price that the catalog has by now.
        anew = decide_without_event(tenant, (), lambda facts: facts, setting)
        if isinstance(anew, Decided) and canonical_json.encode(anew.state) != tenant.shown:
            decided, event_id = anew, ""  # its id is committed already
    if isinstance(decided, EventResult):
        if decided.reason != ERASED_REASON:
            decided = decided._replace(topic=topic, version=snapshot.version)
        return Decision(decided, before=facts, after=facts)
    write = Write(
        canonical_json.encode(decided.state),
        event_cause(event, answer.fetched, attempt.received_us, decided.facts, setting.now_ns),
        event_id=event_id,
        enlists=is_again or not tenant.is_known,
        wants_reconcile=answer.is_away,
    )
    outcome = Outcome.PARKED if decided.is_parked else Outcome.REFUSED if decided.is_stale else Outcome.APPLIED
    result = EventResult(outcome, decided.note, waits=decided.waits)
    return Decision(result, write, facts, decided.facts, decided.wake_us, drifts=decided.drifts)


def event_cause(event: Event, fetched: Event | None, received_us: int, facts: Facts, now_ns: int) -> bytes:
    """Return the cause of the version that an event creates, as JSON; `facts` are the version's."""
    document: dict[str, object] = {
        "source": event.provider,
        "event_id": event.event_id,
        "event_type": event.type,
        "occurred_at": instants.text(event.order.occurred_ns),
        "received_at": instants.text(received_us * 1000),
    }
    if fetched is not None:
        document["fetched_at"] = instants.text(fetched.order.occurred_ns)
    return orjson.dumps(document | active_overrides(facts, now_ns))
