"""One attempt at one event: the values that the stages of `ingest` pass on, and the decision about its topic."""

from __future__ import annotations

from typing import NamedTuple

from planwire_client.core import canonical_json
from sync.billing.catalog.catalog import Catalog
from sync.billing.domain.decision import Decided, decide, decide_without_event, event_cause
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.purchases import frees, items_subject
from sync.billing.domain.facts.model import Event, Unparsable, subscription_key
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
        received_us: when the event was first received, microseconds since 1970.
        claim: the claim of the event; "" for none.
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
    claim: str = ""

    def done(self, result: EventResult) -> Done:
        """Return the end of the attempt without a decision about a topic."""
        return Done(self.environment, self.event, result, answer=self.answer, link=self.link, claim=self.claim)


class Done(NamedTuple):
    """How an attempt ends.

    Attributes:
        is_first: whether this is the first attempt that can have written to the event log.
        catalog: the catalog of the decision.
        rechecks_link: whether the event is parked for lack of a link that may have been learned meanwhile.
        link: as of the attempt.
        frees: what parked events wait on that can be used now.
        retry_s: delay after which the event, which stays pending, is retried; None: the event ends.
        is_recovered: whether an earlier attempt has committed the event, and may have told another reason.
    """

    environment: str
    event: Event | Unparsable
    result: EventResult
    is_first: bool = True
    answer: Answer | None = None
    commit: Commit | None = None
    catalog: Catalog | None = None
    rechecks_link: bool = False
    frees: str = ""
    retry_s: float | None = None
    link: Link | None = None
    claim: str = ""
    is_recovered: bool = False


def freed(event: Event, commit: Commit, setting: Setting) -> str:
    """Return what parked events wait on that can be used after the commit of an event; "" if there are none."""
    decision = commit.decision
    if decision.write is None or event.subscription is None:
        return ""
    key = subscription_key(event.provider, event.subscription.id)
    return items_subject(key) if frees(decision.before, decision.after, key, setting) else ""


def unparsable(environment: str, event: Unparsable, claim: str) -> Done:
    """Return the end of an event that this build cannot read."""
    result = EventResult(Outcome.PARKED, f"unparsable: {event.problem}", waits=(WAITS_SOFTWARE,))
    return Done(environment, event, result, claim=claim)


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
    received_ns = attempt.received_us * 1000
    moved_us = max(moved_us, attempt.link.moved_us if attempt.link is not None else 0)
    is_again, event_id, published = attempt.number != 1, event.event_id, published_state(snapshot)
    shown = snapshot.state if has_facts(snapshot) else b""
    decided = decide(
        topic,
        facts,
        event,
        answer.fetched,
        setting,
        published,
        moved_us,
        received_ns=received_ns,
        shown=shown,
        is_again=is_again,
    )
    is_refused = isinstance(decided, EventResult) and decided.outcome is Outcome.REFUSED
    if is_refused and is_again and has_facts(snapshot) and not snapshot.restored:
        # What it waited for may have changed what the facts mean: a price that the catalog has by now.
        anew = decide_without_event(topic, facts, (), lambda facts: facts, setting, is_known=True, shown=shown)
        if isinstance(anew, Decided) and canonical_json.encode(anew.state) != snapshot.state:
            decided, event_id = anew, ""  # its id is committed already
    if isinstance(decided, EventResult):
        if decided.reason != ERASED_REASON:
            decided = decided._replace(topic=topic, version=snapshot.version)
        return Decision(decided, before=facts, after=facts)
    write = Write(
        canonical_json.encode(decided.state),
        event_cause(event, answer.fetched, attempt.received_us, decided.facts, setting.now_ns),
        event_id=event_id,
        enlists=attempt.number != 1 or not has_facts(snapshot),
        wants_reconcile=answer.is_away,
    )
    outcome = Outcome.PARKED if decided.is_held else Outcome.REFUSED if decided.is_stale else Outcome.APPLIED
    result = EventResult(outcome, decided.note, waits=decided.waits)
    return Decision(result, write, facts, decided.facts, decided.wake_us, drifts=decided.drifts)
