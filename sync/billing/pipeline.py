"""The way of one event: inbox -> link -> read -> ask the provider -> reduce -> project -> commit -> finish or park.

The pure parts decide; here is the order in which the store is asked and told, and what happens when it fails halfway.
Every step may be repeated: a crash anywhere leaves the event pending in the inbox, and whoever claims it next starts
from the top. It speaks no HTTP and owns no task.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import assert_never

import orjson
import structlog

from sync.billing import instants, model
from sync.billing.batch import Batch
from sync.billing.catalog import Catalog
from sync.billing.drift import Drift
from sync.billing.environment import Environment
from sync.billing.inbox import Ending, Inbox, Record
from sync.billing.links import Link, Links, customer_subject, subscription_subject
from sync.billing.model import Event, Facts, HeldChange
from sync.billing.preview import compare
from sync.billing.projection import Projected, Unprojectable, project, settle
from sync.billing.providers import Adapter, ProviderRefusal, ProviderUnavailable, Source, Unparsable
from sync.billing.reducer import Reduced, Refused, Unusable, adopt, reduce
from sync.billing.shelf import Shelf
from sync.billing.turns import Turns
from sync.errors import SyncError
from sync.state import canonical, keys
from sync.state.store import ABSENT, Change, Snapshot, Store, StoreError, Verdict
from sync.state.topic import LIVE, Topic, TopicError

LEASE_S = 30.0
"""How long a claimed event or timer is nobody else's. A crashed process's events are taken up after it."""

CONFLICTS_MAX = 25
"""How often a commit is tried anew because another writer came first."""

CONFLICT_PAUSE_S = 0.02
RELEASE_MAX = 100
"""How many waiting events one newly learned link takes along at once; the rest are claimed by workers."""

EVENTS_KEPT = 200
"""How many entries a topic's list of processed events keeps, about."""

FETCH_PATIENCE_S = 2.5
"""How long a delivery waits for the provider's answer before its own body has to do; providers wait 5 s for ours."""

ASK_AGAIN_MIN_S, ASK_AGAIN_MAX_S = 10, 900
"""How soon the provider is asked again about a change that is overdue: after half the time that it has been so."""

UNFETCHED_AGAIN_S = 30
"""When an event is tried again that has to be fetched, and whose provider was away."""

EXECUTE_AGAIN_S = 300
"""When the provider is told again to make a held change that it would not make."""

TENANT_KIND = "tenant"

WAITS_CATALOG = "catalog"
WAITS_SOFTWARE = "software"
WAITS_ERASED = "erased"
"""What parked events wait on besides links: an edited catalog, a newer release that can read them,
or somebody to look after those of a tenant that was erased."""

_log = structlog.get_logger("sync.pipeline")


class FactsError(SyncError):
    """What a topic keeps in `private` is not a tenant's facts; somebody else wrote it."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an event: `applied`, `unchanged`, `duplicate`, `refused`, `parked` or `ignored`.

    `version` is the topic's after it, 0 where no topic was touched or read.
    """

    outcome: str
    version: int = 0
    reason: str = ""


class Pipeline:
    """Everything between a verified body and the committed state. One per process, shared by its tasks."""

    def __init__(
        self,
        store: Store,
        shelf: Shelf,
        adapters: Mapping[str, Adapter],
        sources: Mapping[tuple[str, str], Source] = MappingProxyType({}),
        *,
        lease_s: float = LEASE_S,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Process with `store`, the catalog on `shelf` and the providers in `adapters`, by the clock `now_ns`.

        `sources` are those that can be asked, by provider and environment: there an event is a hint only.
        """
        self.store = store
        self.shelf = shelf
        self.adapters = adapters
        self.sources = sources
        self._lease_s = lease_s
        self.now_ns = now_ns
        self._environments: dict[str, Environment] = {}
        self.turns = Turns()

    async def aclose(self) -> None:
        """Close the connections to the providers; the store is the caller's."""
        for source in self.sources.values():
            await source.aclose()

    def environment(self, name: str) -> Environment:
        """Return what is kept for an environment."""
        known = self._environments.get(name)
        if known is None:
            known = self._environments[name] = Environment(self.store.redis, name, self._lease_s)
        return known

    async def receive(self, adapter: Adapter, body: bytes, environment: str) -> Receipt:
        """Return what became of a verified delivery, once it is stored.

        Raises:
            StoreError: it may not be stored, or not be processed to the end; the provider should send it again, and a
                worker takes it up anyway if it was stored.
        """
        event = _usable(adapter.parse(body, environment))
        received_us = self.now_ns() // 1000
        inbox = self.environment(environment).inbox
        batch = Batch(self.store.redis)
        inbox.put(batch, event.event_id, body, adapter.name, event.type, received_us)
        topic = _named_topic(event)
        if topic is not None:
            _read(batch, topic)
        self._ask_link(batch, event)
        replies = await batch.run()
        put = Inbox.put_reply(replies.pop(0))
        read = _snapshot(topic, replies.pop(0)) if topic is not None else None
        if put.what == "done":
            return Receipt("duplicate", put.version, put.outcome)
        if put.what == "pending":
            # Another delivery of it is being worked on, or was when its process died: then a worker takes it up.
            return Receipt("duplicate")
        try:
            return await self._process(event, environment, replies, put.attempts, received_us, read)
        except StoreError:
            with contextlib.suppress(StoreError):
                await self.postpone(environment, event.event_id, 0)
            raise

    async def resume(self, record: Record, environment: str) -> Receipt:
        """Return what became of a stored event that the caller has claimed.

        Raises:
            StoreError: the store is unreachable or failing; the event stays pending.
        """
        event = _usable(self.adapters[record.provider].parse(record.body, environment))
        batch = Batch(self.store.redis)
        self._ask_link(batch, event)
        return await self._process(event, environment, await batch.run(), record.attempts, record.received_us)

    async def retry(self, environment: str, event_id: str) -> Receipt | None:
        """Return what becomes of a parked event now, or None where none of that id is parked.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        record = await self.environment(environment).inbox.read(event_id)
        if record is None or record.status != "parked":
            return None
        return await self.resume(record, environment)

    async def postpone(self, environment: str, event_id: str, delay_s: float) -> None:
        """Have a claimed event claimable again in `delay_s`, whatever its lease says.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = Batch(self.store.redis)
        due_us = self.now_ns() // 1000 + int(delay_s * 1_000_000)
        self.environment(environment).inbox.postpone(batch, event_id, due_us)
        await batch.run()

    async def give_up(self, record: Record, environment: str, reason: str) -> None:
        """Park a claimed event that cannot be processed, for a newer release or an operator to try again.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        event = Unparsable(record.event_id, record.type, reason)
        await self._end(environment, event, Ending("parked", reason, record.topic, waits=(WAITS_SOFTWARE,)))

    async def reopen(self, environment: str, waits_on: str) -> int:
        """Return how many parked events that waited on this thing are pending again, for workers to claim.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        inbox = self.environment(environment).inbox
        seen: set[bytes] = set()
        while True:
            batch = Batch(self.store.redis)
            inbox.release(batch, waits_on, RELEASE_MAX, claim=False)
            (ids,) = await batch.run()
            # One that came before was tried meanwhile and is parked again: then all others came by too.
            if not ids or not seen.isdisjoint(ids):
                return len(seen)
            seen.update(ids)

    async def release(self, environment: str, *waits_on: str) -> int:
        """Return how many parked events that waited on one of these things were tried again (RELEASE_MAX each).

        Raises:
            StoreError: the store is unreachable or failing.
        """
        inbox = self.environment(environment).inbox
        batch = Batch(self.store.redis)
        for thing in waits_on:
            inbox.release(batch, thing, RELEASE_MAX)
        records = [record for ids in await batch.run() for record in await inbox.tried(ids)]
        for record in records:
            await self.resume(record, environment)
        return len(records)

    def _ask_link(self, batch: Batch, event: Event | Unparsable) -> None:
        """Add to `batch` what tells an event's tenant; nothing for an event that needs none."""
        if isinstance(event, Unparsable) or event.subscription_id is None or _is_unreal(event):
            return
        links = self.environment(event.environment).links
        if event.tenant_id is not None:
            links.learn(batch, event.provider, event.tenant_id, event.subscription_id, event.customer_id)
        elif event.subscription is not None:
            links.look_up(batch, event.provider, event.subscription_id, event.customer_id)

    async def _process(
        self,
        event: Event | Unparsable,
        environment: str,
        link_replies: list[object],
        attempts: int,
        received_us: int,
        read: Snapshot | None = None,
    ) -> Receipt:
        if isinstance(event, Unparsable):
            reason = f"unparsable: {event.problem}"
            return await self._end(environment, event, Ending("parked", reason, waits=(WAITS_SOFTWARE,)))
        if _is_unreal(event):
            return await self._end(environment, event, Ending("ignored", "simulated event in the live environment"))
        fetched: tuple[Event | None, bool] | None = None
        if event.subscription is None and not event.ignored:
            fetched = await self._fetched(event)
            if fetched[0] is None:
                return await self._unfetched(event, wanted=fetched[1])
            event = _usable_event(_hydrated(event, fetched[0]))
            batch = Batch(self.store.redis)
            self._ask_link(batch, event)
            link_replies = await batch.run()
        if not link_replies:
            return await self._end(environment, event, Ending("ignored", event.ignored))
        link = _link(event, link_replies)
        ending = _unlinked(event, link)
        if ending is None and event.subscription is None:
            ending = Ending("unchanged" if link.learned_subscription else "ignored", event.ignored)
        if link.learned_subscription or link.learned_customer or (attempts > 1 and event.tenant_id is not None):
            # Before the end of this event: should that fail, it is done once more, and so is this.
            await self.release(environment, *_subjects(event))
        if ending is None:
            topic = str(Topic(environment, TENANT_KIND, str(link.tenant_id)))
            return await self._apply(topic, event, attempts, received_us, read, fetched)
        receipt = await self._end(environment, event, ending)
        if receipt.outcome == "parked" and link.conflict is None:
            await self._look_again(event)
        return receipt

    async def _unfetched(self, event: Event, *, wanted: bool) -> Receipt:
        """End the try of an event that carries nothing and whose subscription could not be fetched."""
        if wanted:
            # It stays pending: a worker tries it again.
            await self.postpone(event.environment, event.event_id, UNFETCHED_AGAIN_S)
            return Receipt("parked", 0, f"the provider could not be asked; tried again in {UNFETCHED_AGAIN_S} s")
        reason = f"{event.type[:60]} carries no subscription, and {event.provider} cannot be asked for it"
        return await self._end(event.environment, event, Ending("parked", reason, waits=(WAITS_SOFTWARE,)))

    async def _look_again(self, event: Event) -> None:
        """Release what was parked for want of a link that was learned between our look and our parking."""
        batch = Batch(self.store.redis)
        self._ask_link(batch, event)
        if _link(event, await batch.run()).tenant_id is not None:
            await self.release(event.environment, *_subjects(event))

    async def _apply(
        self,
        topic: str,
        event: Event,
        attempts: int,
        received_us: int,
        read: Snapshot | None,
        asked: tuple[Event | None, bool] | None = None,
    ) -> Receipt:
        """Commit what the event makes of the topic, against whoever else writes it.

        `read`: the topic, seen before. `asked`: what `_fetched` said, if it was asked before.
        """
        fetched, wanted = asked or await self._fetched(event)
        if fetched is not None:
            read = None  # older than the answer: it would be refused as a conflict more often than not
        async with self.turns.of(topic):
            catalog = self.shelf.current
            for _ in range(CONFLICTS_MAX):
                snapshot, read = read or await self.store.read(topic), None
                decided = _decide(snapshot, event, fetched, catalog, self.now_ns())
                if isinstance(decided, Ending):
                    if decided.outcome == "refused" and attempts > 1 and await self._was_committed(topic, event):
                        return await self._finish_late(event, Ending("applied", "", topic, snapshot.version))
                    return await self._end(event.environment, event, decided, wanted=wanted)
                facts, projected, dropped, missed = decided
                change = Change(
                    topic,
                    canonical.encode(projected.state),
                    model.encode(facts),
                    event_id=event.event_id,
                    if_version=snapshot.version,
                    cause=_cause(event, fetched, received_us),
                    previous=snapshot,
                )
                committed = await self.store.commit(change)
                if committed.verdict is Verdict.CONFLICT:
                    await asyncio.sleep(random.uniform(0, CONFLICT_PAUSE_S))  # noqa: S311 - spreads, guards nothing
                    continue
                return await self._end(
                    event.environment,
                    event,
                    Ending(committed.verdict.value, dropped, topic, committed.version),
                    timer_us=self.wake_us(event.environment, projected, facts),
                    is_new=not snapshot.private,
                    wanted=wanted,
                    missed=missed,
                )
        raise StoreError(f"{topic}: {CONFLICTS_MAX} commits in a row came too late")

    async def _fetched(self, event: Event) -> tuple[Event | None, bool]:
        """The subscription as its provider has it now, if it can be asked, and whether it has to be asked later."""
        source = self.sources.get((event.provider, event.environment))
        if source is None or event.subscription_id is None:
            return None, False
        try:
            return await source.fetch(event.subscription_id, FETCH_PATIENCE_S), False
        except ProviderUnavailable as error:
            _log.warning("not_fetched", subscription_id=event.subscription_id, reason=error.reason)
            return None, True
        except ProviderRefusal as error:
            # Asking again would not help: the key is of another account, or the event of a simulation.
            _log.warning("not_fetched", subscription_id=event.subscription_id, reason=str(error))
            return None, False

    def wake_us(self, environment: str, projected: Projected, facts: Facts) -> int | None:
        """Return when time has to look at a topic again, or None for never.

        That is when its state may change, or when a provider that can be asked is due to be asked about it again, or
        to be told to change it.
        """
        wake_us = due_us(projected.valid_until_ns)
        if not any(name == environment for _, name in self.sources):
            return wake_us
        now_us = self.now_ns() // 1000
        held = facts.held
        if held is not None and not held.executed and self._can_tell(facts, held, environment):
            # Not yet tried, it is at its time, which may be now: a bill locks the subscription soon after.
            again_s = EXECUTE_AGAIN_S if held.problem else 0
            execute_us = max(-(-held.execute_ns // 1000), now_us + again_s * 1_000_000)
            wake_us = execute_us if wake_us is None else min(wake_us, execute_us)
        pending = projected.state.get("pending")
        if pending is None:
            return wake_us
        since_s = (now_us - instants.parse(pending["since"]) // 1000) / 2_000_000
        again_us = now_us + int(min(max(since_s, ASK_AGAIN_MIN_S), ASK_AGAIN_MAX_S) * 1_000_000)
        return again_us if wake_us is None else min(wake_us, again_us)

    def _can_tell(self, facts: Facts, held: HeldChange, environment: str) -> bool:
        """Whether the provider of a held change's subscription can be told of it."""
        entry = facts.subscriptions.get(held.subscription)
        return entry is not None and (entry.provider, environment) in self.sources

    async def _was_committed(self, topic: str, event: Event) -> bool:
        """Whether an earlier attempt, which did not come to its end, has committed the event already."""
        batch = Batch(self.store.redis)
        batch.command("ZSCORE", keys.seen(topic), event.event_id)
        (score,) = await batch.run()
        return score is not None

    async def _finish_late(self, event: Event, ending: Ending) -> Receipt:
        """Do what the attempt that committed the event has left undone; the timer fires at once and sets itself."""
        return await self._end(event.environment, event, ending, timer_us=self.now_ns() // 1000, is_new=True)

    async def _end(
        self,
        environment: str,
        event: Event | Unparsable,
        ending: Ending,
        *,
        timer_us: int | None = None,
        is_new: bool = False,
        wanted: bool = False,
        missed: Drift | None = None,
    ) -> Receipt:
        known = self.environment(environment)
        batch = Batch(self.store.redis)
        if wanted:
            batch.command("ZADD", keys.RECONCILE, "NX", self.now_ns() // 1_000_000_000, ending.topic)
        if timer_us is not None:
            known.timers.arm(batch, ending.topic, timer_us)
        if is_new:
            known.enlist(batch, ending.topic, self.now_ns() // 1000)
        if missed is not None:
            known.drifts.add(batch, replace(missed, version=ending.version))
        if ending.topic:
            note(batch, ending.topic, event.event_id, event.type, ending, self.now_ns() // 1000)
        # Last, so that a failure before it leaves the event pending and everything is done once more.
        known.inbox.end(batch, event.event_id, ending)
        await batch.run()
        if ending.outcome == "parked":
            _log.warning(
                "event_parked", environment=environment, event_id=event.event_id, type=event.type, reason=ending.reason
            )
        return Receipt(ending.outcome, ending.version, ending.reason)


def _decide(
    snapshot: Snapshot, event: Event, fetched: Event | None, catalog: Catalog, now_ns: int
) -> Ending | tuple[Facts, Projected, str, Drift | None]:
    """What the event makes of a topic that stands at `snapshot`: new facts, their state, what was dropped for them and
    which preview they belie; or how it ends without."""
    topic, version = snapshot.topic, snapshot.version
    try:
        facts = before = facts_of(snapshot)
    except FactsError as error:
        return Ending("parked", str(error), topic, version, (WAITS_SOFTWARE,))
    if facts.erased_ns is not None:
        return Ending(
            "parked", f"the tenant was erased at {instants.text(facts.erased_ns)}", topic, version, (WAITS_ERASED,)
        )
    result = reduce(facts, event)
    if fetched is not None:
        answer = adopt(result.facts if isinstance(result, Reduced) else facts, fetched)
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
            return facts, projected, dropped, missed
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


def _cause(event: Event, fetched: Event | None, received_us: int) -> bytes:
    cause = {
        "source": event.provider,
        "event_id": event.event_id,
        "event_type": event.type,
        "occurred_at": instants.text(event.order.occurred_ns),
        "received_at": instants.text(received_us * 1000),
    }
    if fetched is not None:
        cause["fetched_at"] = instants.text(fetched.order.occurred_ns)
    return orjson.dumps(cause)


def _read(batch: Batch, topic: str) -> None:
    batch.command("HMGET", keys.snap(topic), "version", "state", "private", "cause")


def _snapshot(topic: str, fields: Sequence[bytes | None]) -> Snapshot:
    version, state, private, cause = fields
    if version is None:
        return Snapshot(topic, 0, ABSENT, b"", b"")
    return Snapshot(topic, int(version), state or ABSENT, private or b"", cause or b"")


def _named_topic(event: Event | Unparsable) -> str | None:
    """The topic of the tenant that the event itself names, if it may change it."""
    if isinstance(event, Unparsable) or event.tenant_id is None or event.subscription is None or _is_unreal(event):
        return None
    return str(Topic(event.environment, TENANT_KIND, event.tenant_id))


def events_key(topic: str) -> str:
    """Return the key of a topic's capped stream of processed events: event_id, type, outcome, reason, at (us)."""
    return f"pw:{{{topic}}}:events"


def note(batch: Batch, topic: str, event_id: str, type: str, ending: Ending, at_us: int) -> None:
    """Add to `batch` an entry in the topic's stream of processed events."""
    batch.command(
        *("XADD", events_key(topic), "MAXLEN", "~", EVENTS_KEPT, "*"),
        *("event_id", event_id, "type", type, "outcome", ending.outcome, "reason", ending.reason, "at", at_us),
    )


def _usable(event: Event | Unparsable) -> Event | Unparsable:
    return event if isinstance(event, Unparsable) else _usable_event(event)


def _usable_event(event: Event) -> Event:
    """The event, without a tenant that cannot be a topic's id."""
    if event.tenant_id is None or _is_tenant(event.tenant_id):
        return event
    return replace(event, tenant_id=None)


def _hydrated(event: Event, fetched: Event) -> Event:
    """A thin event with what was fetched for it."""
    return replace(
        event,
        order=fetched.order,
        tenant_id=event.tenant_id or fetched.tenant_id,
        customer_id=fetched.customer_id,
        subscription=fetched.subscription,
    )


def _is_unreal(event: Event) -> bool:
    """Whether the provider's simulator made this up where real customers are."""
    return event.simulated and event.environment == LIVE


def _subjects(event: Event) -> list[str]:
    """What an event about this subscription and customer may wait on."""
    assert event.subscription_id is not None
    subjects = [subscription_subject(event.provider, event.subscription_id)]
    if event.customer_id is not None:
        subjects.append(customer_subject(event.provider, event.customer_id))
    return subjects


def _is_tenant(text: str) -> bool:
    try:
        return Topic.parse(f"{TENANT_KIND}:{text}").id == text
    except TopicError:
        return False


def _link(event: Event, replies: list[object]) -> Link:
    return Links.learned(event.tenant_id, replies) if event.tenant_id is not None else Links.looked_up(replies)


def _unlinked(event: Event, link: Link) -> Ending | None:
    """How the event ends if its tenant is not known or not certain."""
    if link.conflict is not None:
        reason = f"names tenant {link.tenant_id}, but {event.subscription_id} belongs to {link.conflict}"
        return Ending("parked", reason, waits=tuple(_subjects(event)[:1]))
    if link.tenant_id is not None:
        return None
    reason = f"no tenant is known for {event.subscription_id}: custom_data.tenant_id is missing or not an id"
    return Ending("parked", reason, waits=tuple(_subjects(event)))


def facts_of(snapshot: Snapshot) -> Facts:
    """Return the tenant's facts in a snapshot's private part.

    Raises:
        FactsError: something else is there.
    """
    try:
        return model.decode(snapshot.private)
    except ValueError as error:
        raise FactsError(f"{snapshot.topic}: its private part is not a tenant's facts: {error}") from error


def due_us(ns: int | None) -> int | None:
    """Return an instant in microseconds, rounded up: a timer must not fire before it."""
    return None if ns is None else -(-ns // 1000)
