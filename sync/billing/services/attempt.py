"""One attempt at one event: the values that the stages of `ingest` pass on, and the decision about its topic."""

from __future__ import annotations

from typing import NamedTuple

from planwire_client.core import canonical_json
from sync.billing.catalog.catalog import Catalog
from sync.billing.domain.decision import decide, event_cause
from sync.billing.domain.evaluation import Setting
from sync.billing.domain.model import Event, Unparsable
from sync.billing.domain.outcome import ERASED_REASON, WAITS_SOFTWARE, EventResult, Outcome
from sync.billing.domain.tenant_resolution import Link
from sync.billing.services.committer import Commit, Decision, Write
from sync.billing.storage.tenants import FactsError, facts_of, has_facts, published_state
from sync.store.models import Snapshot


class Answer(NamedTuple):
    """The provider's current subscription; None without an answer, and `is_away` if it has to be asked later."""

    fetched: Event | None = None
    is_away: bool = False


class Attempt(NamedTuple):
    """One attempt at one stored event, and the stages' findings so far.

    Attributes:
        number: number of attempts so far, this one included; 0 for a parked event.
        link: the event's tenant link; None if the event needs no tenant.
        snapshot: the topic, if it was read together with the links.
        topic: the tenant's topic, once it is resolved.
        answer: the provider's answer, once it was asked.
    """

    event: Event
    environment: str
    number: int
    received_us: int
    link: Link | None = None
    snapshot: Snapshot | None = None
    topic: str = ""
    answer: Answer | None = None

    def done(self, result: EventResult) -> Done:
        """Return the end of the attempt without a decision about a topic."""
        return Done(self.environment, self.event, result, answer=self.answer, link=self.link)


class Done(NamedTuple):
    """How an attempt ends.

    Attributes:
        is_first: whether this is the first attempt that can have written to the event log.
        catalog: the catalog of the decision.
        rechecks_link: whether the event is parked for lack of a link that may have been learned meanwhile.
        link: as of the attempt.
        retry_s: delay after which the event, which stays pending, is retried; None: the event ends.
    """

    environment: str
    event: Event | Unparsable
    result: EventResult
    is_first: bool = True
    answer: Answer | None = None
    commit: Commit | None = None
    catalog: Catalog | None = None
    rechecks_link: bool = False
    retry_s: float | None = None
    link: Link | None = None


def unparsable(environment: str, event: Unparsable) -> Done:
    """Return the end of an event that this build cannot read."""
    result = EventResult(Outcome.PARKED, f"unparsable: {event.problem}", waits=(WAITS_SOFTWARE,))
    return Done(environment, event, result)


def decide_attempt(attempt: Attempt, snapshot: Snapshot, setting: Setting, moved_us: int = 0) -> Decision:
    """Return the decision about the event's topic at `snapshot`.

    Args:
        moved_us: the least time of the move that gave the subscription to the topic, if its link does not know it.
    """
    topic, event, answer = attempt.topic, attempt.event, attempt.answer or Answer()
    try:
        facts = facts_of(snapshot)
    except FactsError as error:
        return Decision(EventResult(Outcome.PARKED, str(error), topic, snapshot.version, (WAITS_SOFTWARE,)))
    moved_us = max(moved_us, attempt.link.moved_us if attempt.link is not None else 0)
    decided = decide(topic, facts, event, answer.fetched, setting, published_state(snapshot), moved_us)
    if isinstance(decided, EventResult):
        if decided.reason != ERASED_REASON:
            decided = decided._replace(topic=topic, version=snapshot.version)
        return Decision(decided, before=facts, after=facts)
    write = Write(
        canonical_json.encode(decided.state),
        event_cause(event, answer.fetched, attempt.received_us, decided.facts, setting.now_ns),
        event_id=event.event_id,
        enlists=attempt.number != 1 or not has_facts(snapshot),
        wants_reconcile=answer.is_away,
    )
    result = EventResult(Outcome.APPLIED, decided.note)
    return Decision(result, write, facts, decided.facts, decided.wake_us, drifts=decided.drifts)
