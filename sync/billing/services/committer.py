"""Commits decisions about topics: the only compare-and-set loop of billing.

`commit` reads a topic, decides, and writes the decision; if another writer came first, it repeats all three. The
consequences of a commit (timer, lists) are written before it, so that a crash right after the commit loses none of
them. A superfluous timer or audit only costs a check.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import orjson

from planwire_client.core.commit import BILLING, PUBLISHER
from planwire_client.core.topic import environment_of
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.drift import Drift
from sync.billing.domain.facts.model import NOTHING, Event, Facts
from sync.billing.domain.outcome import EventResult, Outcome
from sync.billing.services.context import BillingContext
from sync.billing.storage.environment import reconcile_requests
from sync.billing.storage.records import append_event, record_snapshots, who_and_why
from sync.billing.storage.tenants import as_shadow, has_facts, in_place, is_shadow
from sync.store.arming import arm
from sync.store.coalescer import Coalescer
from sync.store.command_pipeline import CommandPipeline
from sync.store.keyed_lock import KeyedLock
from sync.store.models import Change, Committed, Snapshot, StoreRejected, Verdict

CONFLICTS_MAX = 25
"""Maximum attempts of a commit that conflicts with other writers."""

CONFLICT_PAUSE_S = 0.02

QUIET = "nothing public has changed: it made no version"
"""The reason of a result whose commit has changed facts alone."""


SHADOW = "in the shadow: pages do not see it until the tenant is switched"
"""The reason of a result whose commit readers do not see."""


class Write(NamedTuple):
    """A write to a topic.

    Attributes:
        state: the public state, canonical JSON.
        event_id: the event that causes it, remembered by the commit; "" for none.
        enlists: whether the topic is added to the lists of tenants and audits.
        wants_reconcile: whether the topic must be compared with the provider later.
        erasing: the links to a tenant that is being erased, stored until all of it is removed.
        switches: whether the write ends the topic's shadow, or begins one.
    """

    state: bytes
    cause: bytes
    event_id: str = ""
    owner: str = BILLING
    enlists: bool = False
    wants_reconcile: bool = False
    erases: bool = False
    erasing: tuple[str, ...] = ()
    switches: bool = False


class Decision(NamedTuple):
    """A decision about a topic at a snapshot.

    Attributes:
        result: the result if nothing is written; else its reason goes into the result of the commit, and REFUSED is the
            result of a commit that leaves the state unchanged.
        write: the write; None leaves the topic unchanged.
        before, after: the tenant's facts; `after` is written with `write`.
        wake_us: next wakeup of the topic, microseconds since 1970; None for never.
        arms: whether the timer is set to `wake_us`; False for a caller that holds the timer's lease and sets it itself.
        drifts: the drift records of what the decision found.
    """

    result: EventResult
    write: Write | None = None
    before: Facts = NOTHING
    after: Facts = NOTHING
    wake_us: int | None = None
    arms: bool = True
    drifts: tuple[Drift, ...] = ()


Decide = Callable[[Snapshot], Decision]
"""Pure; called again after each conflict. Its exceptions propagate."""


class Commit(NamedTuple):
    """The result of a commit, and its decision.

    Attributes:
        is_repeated: whether the event was already committed, and the answer was lost on the network or in a crash.
    """

    topic: str
    result: EventResult
    decision: Decision
    is_repeated: bool = False


class Committer:
    """Writes topics of one store. One per process, so that its tasks do not conflict with each other.

    Attributes:
        locks: one per topic that is being committed.
    """

    def __init__(self, context: BillingContext) -> None:
        self._context = context
        self._store = context.store
        self.locks = KeyedLock()
        self._durable = Coalescer[None, None](self._wait_durable)

    async def commit(self, topic: str, decide: Decide, read: Snapshot | None = None) -> Commit:
        """Decide about a topic and commit the decision, if it has a write; return the commit.

        The caller continues with `record`, or with `follow_up` in a batch.

        Args:
            read: the topic's snapshot, if it was read a moment ago.

        Raises:
            StoreError: the store is unreachable or failing, or CONFLICTS_MAX writers in a row came first.
        """
        async with self.locks.of(topic):
            for _ in range(CONFLICTS_MAX):
                snapshot, read = read or await self.read(topic), None
                is_switched = False
                if self._context.is_shadowing and (snapshot.erased or not has_facts(snapshot)):
                    snapshot, is_switched = await self._placed(snapshot)
                decision = decide(snapshot)
                write = decision.write
                if write is None:
                    return Commit(topic, decision.result, decision)
                if is_switched and not write.erases:
                    write = write._replace(switches=True)
                    decision = decision._replace(write=write)
                committed = await self.write(snapshot, decision)
                if committed.verdict is not Verdict.CONFLICT:
                    is_repeated = committed.verdict is Verdict.DUPLICATE
                    # The store's `unchanged` is about the public state: new facts raise the rev alone.
                    is_applied = is_repeated or committed.rev > snapshot.rev
                    outcome = Outcome.APPLIED if is_applied else Outcome.UNCHANGED
                    decided = decision.result
                    if decided.outcome is Outcome.PARKED:
                        outcome = Outcome.PARKED  # its facts are stored, and it waits
                    elif decided.outcome is Outcome.REFUSED and committed.verdict is Verdict.UNCHANGED:
                        outcome = Outcome.REFUSED
                    is_quiet = committed.verdict is Verdict.UNCHANGED and outcome is Outcome.APPLIED
                    quiet = SHADOW if is_shadow(snapshot) and not write.switches else QUIET
                    reason = decided.reason or (quiet if is_quiet else "")
                    result = EventResult(outcome, reason, topic, committed.version, decided.waits)
                    return Commit(topic, result, decision, is_repeated)
                await asyncio.sleep(random.uniform(0, CONFLICT_PAUSE_S))  # noqa: S311 - spreads, guards nothing
        raise StoreRejected(f"{topic}: {CONFLICTS_MAX} commits in a row came too late")

    async def _placed(self, snapshot: Snapshot) -> tuple[Snapshot, bool]:
        """Return the snapshot of a topic that billing does not know as a shadow, and whether it is switched at once."""
        is_computed = snapshot.owner == BILLING and not snapshot.erased
        if is_computed or is_shadow(snapshot):
            return snapshot, False
        known = self._context.environment(environment_of(snapshot.topic))
        return as_shadow(snapshot), await known.shadow.is_switched(snapshot.topic)

    async def read(self, topic: str) -> Snapshot:
        """Return the topic's snapshot with its private part.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return await self._store.read(topic)

    async def write(self, snapshot: Snapshot, decision: Decision) -> Committed:
        """Write a decision about the topic at `snapshot`, in one attempt; return the verdict.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        write, topic = decision.write, snapshot.topic
        assert write is not None
        batch = CommandPipeline(self._store)
        if write.erasing:
            batch.command("SADD", batch.keys.erasing(topic), *write.erasing)
        self.prepare(batch, topic, decision.wake_us if decision.arms else None, enlists=write.enlists)
        if write.wants_reconcile:
            reconcile_requests(self._store).request(batch, [topic])
        change = Change(
            topic,
            write.state,
            codec.encode(decision.after),
            event_id=write.event_id,
            if_rev=snapshot.rev,
            cause=write.cause,
            previous=None if write.erases else snapshot,
            owner=write.owner,
            erases=write.erases,
        )
        if not write.erases:
            change = in_place(change, snapshot, switches=write.switches)
            if self._context.is_shadowing or change.owner == PUBLISHER:
                compared = self._context.environment(environment_of(topic)).shadow.queue
                compared.schedule_earlier(batch, topic, self._context.shadow_due_us)
        arm(self._store, batch, [topic])
        batch.barrier()
        return await self.send(change, batch)

    async def send(self, change: Change, batch: CommandPipeline | None = None) -> Committed:
        """Send a change after the commands of `batch`, in the same round trip; return the verdict.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store) if batch is None else batch
        self._store.add_commit(batch, change)
        return self._store.committed(change, (await batch.run())[-1])

    def prepare(self, batch: CommandPipeline, topic: str, wake_us: int | None, *, enlists: bool) -> None:
        """Add to `batch` a topic's timer, and with `enlists` its entries in the lists."""
        known = self._context.environment(environment_of(topic))
        if wake_us is not None:
            known.timers.schedule_earlier(batch, topic, wake_us)
        if enlists:
            known.enlist(batch, topic, self._context.now_us)

    async def arm_at_once(self, topic: str) -> None:
        """Make the topic's timer fire now, and add the topic to the lists.

        Older builds set both after the commit, and may have crashed in between.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        self.prepare(batch, topic, self._context.now_us, enlists=True)
        await batch.run()

    def follow_up(self, batch: CommandPipeline, commit: Commit) -> None:
        """Add to `batch` what follows a commit: its drift record, and the timer again.

        A worker may have fired the timer between `prepare` and the commit, before the topic changed.
        """
        decision = commit.decision
        if decision.arms:
            self.prepare(batch, commit.topic, decision.wake_us, enlists=False)
        for drift in decision.drifts:
            drift = replace(drift, version=commit.result.version)
            self._context.environment(environment_of(commit.topic)).drifts.add(batch, drift)

    async def record(
        self, commit: Commit, what: str, fetched: Sequence[Event] = (), missing: Sequence[str] = ()
    ) -> None:
        """Write what follows a commit without an event: history, drift, timer, and the provider's answers.

        Args:
            what: the type in the history.
            fetched, missing: the provider's answers, and the keys of subscriptions that it does not have.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch, now_us = CommandPipeline(self._store), self._context.now_us
        if commit.decision.before.erased_ns is None:
            record_snapshots(batch, commit.topic, fetched, missing, now_us)
        self.follow_up(batch, commit)
        write, result = commit.decision.write, commit.result
        if write is not None:
            if result.reason in (QUIET, SHADOW):  # no version has the cause
                result = result._replace(reason=f"{result.reason}{who_and_why(orjson.loads(write.cause))}")
            append_event(batch, commit.topic, "", what, result, now_us)
        await batch.run()

    async def wait_durable(self) -> None:
        """Return when all earlier writes are on disk, as `Store.wait_durable`; concurrent callers wait together.

        Raises:
            StoreError: they are not, or the store does not report it.
        """
        await self._durable.submit(None)

    async def _wait_durable(self, waiting: Sequence[None]) -> list[Exception | None]:
        await self._store.wait_durable()
        return [None] * len(waiting)
