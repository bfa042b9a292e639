"""Reprojects tenants without an event: after a provider's answer, a catalog edit, a command, or by a timer.

The `source` in the cause of such a version is `timer`, `catalog`, `reconcile` or similar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
import structlog

from planwire_client.core import canonical_json
from sync.billing.domain.decision import ChangeFacts, decide_without_event
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.overrides import active_overrides
from sync.billing.domain.facts.model import Event
from sync.billing.domain.outcome import WAITS_CATALOG, EventResult, Outcome
from sync.billing.services.committer import Commit, Committer, Decision, Write
from sync.billing.services.context import BillingContext
from sync.billing.storage.tenants import billed, tenant_of
from sync.store.models import Snapshot

RESTORED = "the store lost its tail: the state was put back, its facts stay older until the provider is asked"
"""The reason of a result that leaves a restored state unchanged."""

_log = structlog.get_logger("sync.reprojection")


@dataclass(frozen=True, slots=True)
class Refresh:
    """The inputs of a reprojection.

    Attributes:
        cause: the cause of the new version: `source`, and where they apply `event_type` and others.
        fetched: the provider's answers, merged into the facts.
        missing: the keys of subscriptions that the provider does not have.
        change: a further change of the facts.
        if_version, if_rev: expected version or revision; a topic at another one gives `conflict`.
        arms: whether the timer is set; False for a caller that holds the timer's lease and sets the timer itself.
        spares_restored: whether a restored state stays unchanged until a comparison or an event renews its facts.
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
    """Reprojects topics and commits the differences."""

    def __init__(self, context: BillingContext, committer: Committer) -> None:
        self._context = context
        self._committer = committer

    async def reproject(self, environment: str, topic: str, source: str) -> EventResult:
        """Reproject a topic's facts with the current catalog and time; return `applied` or `unchanged`.

        The topic stays unchanged if its facts are missing, older than its state, or cannot be projected.

        Raises:
            FactsError: billing's own facts of the topic cannot be read.
            StoreError: the store is unreachable or failing.
        """
        return (await self.refresh(environment, topic, Refresh({"source": source}, spares_restored=True))).result

    async def refresh(self, environment: str, topic: str, refresh: Refresh) -> Commit:
        """Reproject a topic with `refresh` and the current catalog and time, and return the commit.

        The topic stays unchanged if its facts are missing or cannot be projected; then the result has a reason.

        Raises:
            FactsError: billing's own facts of the topic cannot be read.
            StoreError: the store is unreachable or failing.
        """

        def decide(snapshot: Snapshot) -> Decision:
            return decide_refresh(snapshot, refresh, self._context.setting(environment))

        commit = await self._committer.commit(topic, decide)
        what = refresh.cause.get("event_type", refresh.cause["source"])
        await self._committer.record(commit, what, refresh.fetched, refresh.missing)
        result = commit.result
        if WAITS_CATALOG in result.waits or (commit.decision.write is None and result.reason == RESTORED):
            is_kept = commit.decision.write is None or commit.decision.after.kept is not None
            what = "state_held" if is_kept else "price_unknown"
            _log.error(what, topic=topic, reason=result.reason)
        return commit


def decide_refresh(snapshot: Snapshot, refresh: Refresh, setting: Setting) -> Decision:
    """Return the decision about a topic at `snapshot`."""
    topic, version = snapshot.topic, snapshot.version
    if refresh.if_version not in (None, version) or refresh.if_rev not in (None, snapshot.rev):
        return Decision(EventResult(Outcome.CONFLICT, "", topic, version))
    tenant = tenant_of(snapshot)
    before = tenant.facts
    decided = decide_without_event(tenant, refresh.fetched, refresh.change, setting)
    if isinstance(decided, EventResult):
        result = EventResult(decided.outcome, decided.reason, topic, version, decided.waits)
        return Decision(result, before=before, after=before)
    state = canonical_json.encode(decided.state)
    is_same = state == billed(snapshot).state and decided.facts == before
    is_spared = snapshot.restored and refresh.spares_restored and not is_same
    # A provider's answer ends the restored mark even if it changes nothing: that has to be committed.
    is_made_whole = snapshot.restored and bool(refresh.fetched)
    if is_spared or (is_same and not is_made_whole):
        reason = RESTORED if is_spared else decided.note
        result = EventResult(Outcome.UNCHANGED, reason, topic, version, decided.waits)
        return Decision(result, None, before, before, decided.wake_us, refresh.arms)
    cause = orjson.dumps({**refresh.cause, **active_overrides(decided.facts, setting.now_ns)})
    write = Write(state, cause, enlists=not tenant.is_known)
    result = EventResult(Outcome.APPLIED, decided.note, waits=decided.waits)
    return Decision(result, write, before, decided.facts, decided.wake_us, refresh.arms, decided.drifts)
