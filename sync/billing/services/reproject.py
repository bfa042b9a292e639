"""Projects tenants anew without an event: after the provider's own answers, a catalog edit, a command, or by time.

The cause of such a version says `timer`, `catalog`, `reconcile` and the like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
import structlog

from planwire_client.core import canonical_json
from sync.billing.domain.decision import ChangeFacts, decide_without_event
from sync.billing.domain.evaluation import Setting
from sync.billing.domain.model import Event
from sync.billing.domain.outcome import WAITS_CATALOG, EventResult, Outcome
from sync.billing.domain.overrides import active_overrides
from sync.billing.services.committer import Commit, Committer, Decision, Write
from sync.billing.services.context import BillingContext
from sync.billing.storage.tenants import FactsError, facts_of
from sync.store.models import Snapshot

RESTORED = "the store lost its tail: the state was put back, its facts are older until the provider tells them anew"
"""Why a restored state is left as it is."""

_log = structlog.get_logger("sync.reprojection")


@dataclass(frozen=True, slots=True)
class Refresh:
    """What a topic is projected with.

    Attributes:
        cause: `source`, and `event_type` and others as they apply.
        fetched: what the provider answered, merged into the facts.
        missing: the keys of subscriptions that the provider does not know.
        change: what is done to the facts besides.
        if_version, if_rev: a topic at another one is left as it is: `conflict`.
        arms: False for whoever holds the timer's lease and ends it.
        spares_restored: whether a restored state is left as it is, until a comparison or an event renews its facts.
    """

    cause: Mapping[str, str]
    fetched: Sequence[Event] = ()
    missing: Sequence[str] = ()
    change: ChangeFacts = lambda facts: facts
    if_version: int | None = None
    if_rev: int | None = None
    arms: bool = True
    spares_restored: bool = False


class Reprojection:
    """Projects topics anew and commits what differs."""

    def __init__(self, context: BillingContext, committer: Committer) -> None:
        self._context = context
        self._committer = committer

    async def reproject(self, environment: str, topic: str, source: str) -> EventResult:
        """Return what the present catalog and instant make of a topic's facts: `applied` or `unchanged`.

        Facts that are missing, older than the topic's state or cannot be projected leave the topic as it is.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return (await self.refresh(environment, topic, Refresh({"source": source}, spares_restored=True))).result

    async def refresh(self, environment: str, topic: str, refresh: Refresh) -> Commit:
        """Return what `refresh`, the present catalog and the present instant make of a topic, committed.

        Facts that are missing, or cannot be projected, leave the topic as it is; then the result has a reason.

        Raises:
            StoreError: the store is unreachable or failing.
        """

        def decide(snapshot: Snapshot) -> Decision:
            return _decide(snapshot, refresh, self._context.setting(environment))

        commit = await self._committer.commit(topic, decide)
        what = refresh.cause.get("event_type", refresh.cause["source"])
        await self._committer.record(commit, what, refresh.fetched, refresh.missing)
        result = commit.result
        if commit.decision.write is None and (WAITS_CATALOG in result.waits or result.reason == RESTORED):
            _log.error("state_held", topic=topic, reason=result.reason)
        return commit


def _decide(snapshot: Snapshot, refresh: Refresh, setting: Setting) -> Decision:
    topic, version = snapshot.topic, snapshot.version
    if refresh.if_version not in (None, version) or refresh.if_rev not in (None, snapshot.rev):
        return Decision(EventResult(Outcome.CONFLICT, "", topic, version))
    try:
        before = facts_of(snapshot)
    except FactsError as error:
        return Decision(EventResult(Outcome.UNCHANGED, str(error), topic, version))
    decided = decide_without_event(
        topic, before, refresh.fetched, refresh.change, setting, is_known=bool(snapshot.private)
    )
    if isinstance(decided, EventResult):
        result = EventResult(decided.outcome, decided.reason, topic, version, decided.waits)
        return Decision(result, before=before, after=before)
    state = canonical_json.encode(decided.state)
    is_same = state == snapshot.state and decided.facts == before
    is_spared = snapshot.restored and refresh.spares_restored and not is_same
    # An answer makes a restored topic whole even if it says nothing new: that has to be committed.
    is_made_whole = snapshot.restored and bool(refresh.fetched)
    if is_spared or (is_same and not is_made_whole):
        result = EventResult(Outcome.UNCHANGED, RESTORED if is_spared else decided.note, topic, version)
        return Decision(result, None, before, before, decided.wake_us, refresh.arms)
    cause = orjson.dumps({**refresh.cause, **active_overrides(decided.facts, setting.now_ns)})
    write = Write(state, cause, enlists=not snapshot.private)
    result = EventResult(Outcome.APPLIED, decided.note)
    return Decision(result, write, before, decided.facts, decided.wake_us, refresh.arms, decided.missed)
