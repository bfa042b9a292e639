"""Billing's data in the store for one environment: inbox, timers, audits, drift and the list of tenants."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

from planwire_client.core.topic import Topic, TopicError
from sync.billing.domain.outcome import ERASED_REASON, OTHER_ACCOUNT, OTHER_SOFTWARE, EventResult
from sync.billing.storage.inbox import Inbox
from sync.billing.storage.records import DriftLog
from sync.billing.storage.shadow import ShadowLog
from sync.store import counters
from sync.store.command_pipeline import CommandPipeline, Script, run_commands
from sync.store.delayed_queue import DelayedQueue, text_of
from sync.store.keys import Keys
from sync.store.lease import SharedWalk
from sync.store.models import StoreError, StoreRejected
from sync.store.store import Store

SCAN_COUNT = 500

AUDIT_EVERY_S = 86_400
"""Maximum time between two comparisons of a tenant with its provider, if the rate limit suffices for all tenants."""

RECONCILE_LEASE_S = 120.0
"""Lease of a claimed comparison: several answers of a slow provider fit into it."""

BACKLOG_CACHE_S = 5.0
"""Minimum time between two reads of the queues' lengths."""

COUNTED: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    ERASED_REASON: {"erased_events": {}},
    OTHER_SOFTWARE.reason: {"ignored_events": {"reason": "price"}},
    OTHER_ACCOUNT: {"ignored_events": {"reason": "account"}},
}
"""The reason of a result, up to its first colon -> the counter of its events, with its labels."""

_STATS = Script.load("sync.store", "queue_stats")


def reconcile_requests(store: Store) -> DelayedQueue:
    """Return the queue of topics to compare with their provider, of all environments. Gateways add topics too."""
    return DelayedQueue(store, store.keys.reconcile, RECONCILE_LEASE_S)


_SHARED_QUEUES: dict[str, Callable[[Keys], str]] = {
    "reconcile": lambda keys: keys.reconcile,
    "reconcile_repeated": lambda keys: keys.repeated,
    "search": lambda keys: keys.searches,
    "checkouts": lambda keys: keys.checkouts,
    "checkouts_doubtful": lambda keys: keys.doubtful_checkouts,
    "hydration": lambda keys: keys.hydrate,
    "compare": lambda keys: keys.compare,
    "usage": lambda keys: keys.usage_wanted,
}
"""The key of each queue of all environments."""

_OWN_QUEUES: dict[str, Callable[[Keys, str], str]] = {
    "timers": Keys.timers,
    "audits": Keys.audits,
    "shadow": lambda keys, name: keys.shadow(name, "due"),
    "shadow_switches": lambda keys, name: keys.shadow(name, "switching"),
}
"""The key of each queue of one environment."""

PARKING_QUEUES = (*_SHARED_QUEUES, *_OWN_QUEUES)
"""The names of the worker's queues that park items, except the inboxes."""


WEBHOOKS = "webhooks:"
"""Stands before an endpoint in the name of its queue. What is parked there are messages that were not delivered."""


def parking_queues(
    store: Store, environments: Iterable[str], endpoints: Iterable[str] | None = None
) -> list[tuple[str, str, DelayedQueue]]:
    """Return (name, environment, queue) of each of PARKING_QUEUES, and of each endpoint of outgoing webhooks.

    The environment is "" for a queue of all environments.

    Args:
        store: the store.
        environments: their own queues are returned.
        endpoints: of outgoing webhooks; None: those of the setting.
    """
    keys = store.keys
    found = [(name, "", key(keys)) for name, key in _SHARED_QUEUES.items()]
    found += [
        (f"{WEBHOOKS}{name}", "", keys.webhooks(f"to:{name}"))
        for name in (store.endpoints if endpoints is None else endpoints)
    ]
    found += [(name, own, key(keys, own)) for own in environments for name, key in _OWN_QUEUES.items()]
    return [(name, environment, DelayedQueue(store, key)) for name, environment, key in found]


async def endpoints_ever(store: Store) -> list[str]:
    """Return the endpoints of outgoing webhooks that the setting has, or had once: these may have left dead letters.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    try:
        (names,) = await run_commands(store, ("HKEYS", store.keys.webhooks("since")))
    except StoreRejected:
        names = ()  # a damaged list hides no other
    return sorted({*store.endpoints, *map(text_of, names)})


def checked_topic(environment: str, topic: str) -> Topic:
    """Return a topic that is kept in an environment's data.

    Raises:
        TopicError: it is not a topic, or not of this environment.
    """
    parsed = Topic.parse(topic)
    if parsed.env != environment:
        raise TopicError(f"{topic!r} is not a topic of {environment}")
    return parsed


class Environment:
    """One environment's part of the store. Environments share no keys."""

    def __init__(self, store: Store, name: str, lease_s: float) -> None:
        """Use `store`; claims of events and timers last `lease_s`."""
        self.name = name
        self.inbox = Inbox(store, name, lease_s)
        self.timers = DelayedQueue(store, store.keys.timers(name), lease_s)
        self.audits = DelayedQueue(store, store.keys.audits(name), lease_s)
        self.drifts = DriftLog(store, name)
        self.shadow = ShadowLog(store, name)
        self._store = store
        self._tenants = store.keys.tenants(name)

    def enlist(self, batch: CommandPipeline, topic: str, now_us: int) -> None:
        """Add to `batch` the topic's entry in the list of tenants, and its first audit, within AUDIT_EVERY_S."""
        batch.command("SADD", self._tenants, topic)
        self.plan_audit(batch, topic, now_us)

    def count(self, batch: CommandPipeline, result: EventResult) -> None:
        """Add to `batch` the count of an event that was ignored for a reason that operators watch."""
        for name, labels in COUNTED.get(result.reason.partition(":")[0], {}).items():
            field = counters.field(name, **labels, env=self.name)
            batch.command("HINCRBY", self._store.keys.counters, field, 1)

    def strike(self, batch: CommandPipeline, topic: str) -> None:
        """Add to `batch` the removal of the topic from the lists of tenants, usage, audits, timers and the shadow."""
        batch.command("SREM", self._tenants, topic)
        batch.command("ZREM", self._store.keys.usage_tenants(self.name), topic)
        self.audits.cancel(batch, topic)
        self.timers.cancel(batch, topic)
        self.shadow.erase(batch, topic)

    def plan_audit(self, batch: CommandPipeline, topic: str, now_us: int) -> None:
        """Add to `batch` an audit of the topic at a random time within AUDIT_EVERY_S, unless one is planned."""
        spread_s = random.uniform(0, AUDIT_EVERY_S)  # noqa: S311 - spreads, guards nothing
        self.audits.schedule_once(batch, topic, now_us + int(spread_s * 1_000_000))

    def walk(self, work: str) -> SharedWalk:
        """Return the walk named `work` over all tenants, which one process does at a time."""
        keys = self._store.keys
        return SharedWalk(
            self._store, keys.tenants_walk(self.name, work, "lease"), keys.tenants_walk(self.name, work, "done")
        )

    async def topics(self) -> AsyncIterator[str]:
        """Yield every topic in the list of tenants, some perhaps twice.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        cursor = "0"
        while True:
            topics, cursor = await self.topics_page(cursor, SCAN_COUNT)
            for topic in topics:
                yield topic
            if not cursor:
                return

    async def topics_page(self, cursor: str, count: int) -> tuple[list[str], str]:
        """Return about `count` topics of the list of tenants from a cursor on, and the next cursor; "" at the end.

        Args:
            cursor: "0" for the beginning.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        ((after, topics),) = await run_commands(self._store, ("SSCAN", self._tenants, cursor, "COUNT", count))
        return [text_of(topic) for topic in topics], "" if int(after) == 0 else str(int(after))


class Backlog:
    """The lengths of some environments' queues, cached. While the store is unreachable, the last values stay.

    Attributes:
        waiting: (queue, environment, members, seconds since the first was due) for each queue: `inbox`, events being
            processed, due when their lease ends; `parked`, events that wait for something, due since they were parked;
            `timers`, tenants whose state changes by time alone; `reconcile`, topics of all environments ("") whose
            comparison was requested.
        parked: (queue, environment, members that are parked after failed attempts) for each queue but the inbox.
    """

    def __init__(self, store: Store, environments: Iterable[str]) -> None:
        self._store = store
        self._keys: list[tuple[str, str, str]] = []
        names = tuple(environments)
        self._environments = names
        for name in names:
            self._keys.append(("inbox", name, store.keys.inbox(name, "pending")))
            self._keys.append(("parked", name, store.keys.inbox(name, "parked")))
            self._keys.append(("timers", name, store.keys.timers(name)))
        self._keys.append(("reconcile", "", store.keys.reconcile))
        self._read_at = -BACKLOG_CACHE_S
        self.waiting: Sequence[tuple[str, str, int, float]] = ()
        self.parked: Sequence[tuple[str, str, int]] = ()

    async def refresh(self) -> None:
        """Read the queues, unless they were read within BACKLOG_CACHE_S."""
        if time.monotonic() - self._read_at < BACKLOG_CACHE_S:
            return
        batch = CommandPipeline(self._store)
        for _, _, key in self._keys:
            batch.script(_STATS, (key,))
        try:
            parking = parking_queues(self._store, self._environments, await endpoints_ever(self._store))
            for _, _, queue in parking:
                queue.count_parked(batch)
            replies = await batch.attempt()
        except StoreError:
            return
        self._read_at = time.monotonic()
        # A queue that cannot be read hides no other.
        waiting, parked = replies[: len(self._keys)], replies[len(self._keys) :]
        self.waiting = [
            (queue, environment, int(reply[0]), int(reply[1]) / 1e6)
            for (queue, environment, _), reply in zip(self._keys, waiting, strict=True)
            if not isinstance(reply, Exception)
        ]
        self.parked = [
            (queue, environment, int(reply))
            for (queue, environment, _), reply in zip(parking, parked, strict=True)
            if not isinstance(reply, Exception)
        ]
