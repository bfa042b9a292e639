"""The live topics of a process: their newest known versions and their subscriptions. It never waits.

A socket is attached first, then the store is read, and versions that are not newer are dropped. So no version is missed
and no lock is needed. The only I/O is writing to sockets: channels and reads are requested through callables.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import structlog

from gateway.hub.ack_policy import AckPolicy
from gateway.hub.acknowledgements import Acknowledgements
from gateway.hub.fanout import FanOut
from gateway.hub.observer import HubObserver, Observers
from gateway.hub.subscription import UNKNOWN, Socket, Subscription
from gateway.hub.topic import Announced, LiveTopic, is_break
from gateway.metrics import Metrics
from planwire_client.core.topic import tenant_of
from sync.core import announcement
from sync.store.keys import DEFAULT_KEYS, Keys
from sync.store.models import Snapshot

LINGER_S = 5.0
"""Seconds for which a topic without subscriptions stays live, for a page reload or a reconnect."""

log = structlog.get_logger()


class Hub:
    """All live topics of the process.

    Attributes:
        topics: the live topics by channel.
        observers: are called on subscriptions and versions.
        acks: counts what browsers acknowledge, and tells them how often to.
        unread: channels whose topic was not read again since the bus was lost. Unless empty, nothing is fresh.
        verified_at_us: when the bus was last proved to deliver, microseconds since 1970; 0: never.
        subscription_count: subscriptions of all sockets together.
        usage_count: number of live topics that show usage.
        want_reconcile: requests that a topic is compared with its provider; the second argument, if given, is the
            newer version that a browser holds.
        want_checkout: requests that a topic's checkout is read from its provider.
        want_usage: requests that a version and state of a usage topic, which the store has lost, are restored.
    """

    def __init__(
        self,
        metrics: Metrics,
        subscribe: Callable[[bytes], None],
        unsubscribe: Callable[[bytes], None],
        request_read: Callable[[str], None],
        ack_policy: AckPolicy | None = None,
        want_reconcile: Callable[..., None] = lambda name, held=0: None,
        want_checkout: Callable[[str, str], None] = lambda name, checkout: None,
        want_usage: Callable[[str, int, bytes], None] = lambda name, version, state: None,
        keys: Keys = DEFAULT_KEYS,
    ) -> None:
        """Start without topics.

        Args:
            metrics: counts announcements and deliveries.
            subscribe, unsubscribe: subscribe and unsubscribe a channel of the bus.
            request_read: requests a read of a topic from the store; the snapshot is passed to `apply_snapshot`.
            ack_policy: the rules for acks.
            want_reconcile, want_checkout, want_usage: see above.
            keys: the store's keys, which contain the channels' names.
        """
        self.topics: dict[bytes, LiveTopic] = {}
        self.unread: set[bytes] = set()
        self.observers = Observers()
        self.verified_at_us = 0
        self.subscription_count = self.usage_count = 0
        self._fresh_until = -math.inf
        self._internal_topics = 0
        self._idle: dict[LiveTopic, float] = {}  # by time of release, the oldest first
        self._metrics = metrics
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._request_read = request_read
        self.want_reconcile = want_reconcile
        self.want_checkout = want_checkout
        self.want_usage = want_usage
        self.acks = Acknowledgements(
            metrics, self.observers, ack_policy or AckPolicy(), lambda: self.subscription_count
        )
        self._keys = keys
        self._fan_out = FanOut(metrics, request_read, want_reconcile)

    # Freshness.

    @property
    def fresh(self) -> bool:
        """Whether the bus is proved to deliver. The proof expires by time, also while the process is suspended."""
        return time.monotonic() < self._fresh_until

    def set_fresh_until(self, at: float) -> None:
        """Set when the proof that the bus delivers expires, in monotonic seconds; -inf: there is none."""
        self._fresh_until = at

    def set_verified(self, at_us: int) -> None:
        """Set when the bus was last proved to deliver, in microseconds since 1970."""
        self.verified_at_us = at_us

    # Topics.

    @property
    def topic_count(self) -> int:
        """Number of live topics, without the gateways' own."""
        return len(self.topics) - self._internal_topics

    def _channel(self, name: str) -> bytes:
        return self._keys.channel(name).encode()

    def topic(self, name: str) -> LiveTopic | None:
        """Return the live topic of that name, or None."""
        return self.topics.get(self._channel(name))

    @contextmanager
    def reader(self, name: str) -> Iterator[LiveTopic]:
        """Yield the topic and keep it live meanwhile."""
        live = self._retain(name)
        live.readers += 1
        try:
            yield live
        finally:
            live.readers -= 1
            self._release(live)

    def _retain(self, name: str) -> LiveTopic:
        channel = self._channel(name)
        live = self.topics.get(channel)
        if live is None:
            live = self.topics[channel] = LiveTopic(name, channel)
            self._internal_topics += live.is_internal
            self._subscribe(channel)
            if tenant := tenant_of(name):
                live.tenant = self._retain(tenant)
                live.tenant.usage = live
                self.usage_count += 1
        self._idle.pop(live, None)
        return live

    def _release(self, live: LiveTopic) -> None:
        if not live.subscriptions and not live.readers and live.usage is None:
            self._idle[live] = time.monotonic()

    def expire_idle(self) -> None:
        """Drop the topics that were not used for `LINGER_S`."""
        limit = time.monotonic() - LINGER_S
        for live, idle_since in list(self._idle.items()):
            if idle_since > limit:
                break
            del self._idle[live]
            del self.topics[live.channel]
            self._internal_topics -= live.is_internal
            self.unread.discard(live.channel)
            self._unsubscribe(live.channel)
            if live.tenant is not None:
                live.tenant.usage = None
                self.usage_count -= 1
                self._release(live.tenant)

    # Sockets.

    def attach(self, socket: Socket, name: str, client_version: int) -> Subscription:
        """Return a new subscription of a browser with `client_version`. It is answered once the topic is known."""
        live = self._retain(name)
        subscription = live.subscribe(socket, client_version)
        self.observers.call(HubObserver.subscription_opened, subscription)
        self.subscription_count += 1
        if self.acks.is_sampled(live):
            socket.write(self.acks.policy_frame(live))
        self._answer(subscription)
        return subscription

    def resubscribe(self, subscription: Subscription, client_version: int) -> None:
        """Answer a repeated subscribe: the browser holds `client_version` now."""
        subscription.client_version, subscription.sent = client_version, UNKNOWN
        self._answer(subscription)

    def _answer(self, subscription: Subscription) -> None:
        if subscription.live.known:
            self._fan_out.send_initial(subscription)
            self._fan_out.close_erased_soon(subscription.live)

    def send_latest(self, subscription: Subscription) -> None:
        """Send the newest version to a socket that drains again, if the browser lacks it."""
        self._fan_out.send_latest(subscription)

    def detach(self, subscription: Subscription) -> None:
        """End a subscription."""
        self.subscription_count -= 1
        live, pending = subscription.live, subscription.socket.pending
        live.unsubscribe(subscription)
        if pending is not None:
            pending.pop(subscription, None)
        self._release(live)
        self.observers.call(HubObserver.subscription_closed, subscription)

    # Announcements and reads.

    def announce(self, channel: bytes, payload: bytes) -> None:
        """Handle an announcement from the bus: deliver it if it is newer."""
        live = self.topics.get(channel)
        if live is None:
            return
        try:
            announced = announcement.parse(payload)
        except ValueError:
            self._metrics.bad_announcements += 1
            return
        if live.tenant is not None:
            self._check_chain(live, announced.version, announced.state)
        verdict = live.announce(announced)
        if verdict is Announced.NEWER:
            if live.known:
                self._deliver(live)
            if not live.is_internal:
                self._metrics.announced(announced.version)
        elif verdict is Announced.LATE:
            self._request_read(live.name)

    def confirmed(self, channel: bytes) -> None:
        """Record that the bus has confirmed the subscription of `channel`. The caller requests a read afterwards."""
        if (live := self.topics.get(channel)) is not None:
            live.confirmed = True

    def invalidate(self, channels: Iterable[bytes] | None = None) -> None:
        """Record that the bus was lost for these channels (None: all).

        Sockets keep what they have; new subscriptions are answered after the next read.
        """
        for channel in list(self.topics if channels is None else channels):
            if (live := self.topics.get(channel)) is not None:
                live.known = live.confirmed = False
                self.unread.add(channel)

    def apply_snapshot(self, snapshot: Snapshot, is_final: bool = True, may_reset: bool = True) -> bool:
        """Apply a snapshot from the store, and deliver it.

        Args:
            snapshot: what was read.
            is_final, may_reset: see `LiveTopic.apply`.

        Returns:
            False if the store has an older version than this process: the caller should try to restore ours. If newer
            changes were announced after a loss, ours is dropped and browsers are reset to the store's version.
        """
        live = self.topic(snapshot.topic)
        if live is None:
            return True
        if live.tenant is not None:
            self._check_chain(live, snapshot.version, snapshot.state)
        before = live.version, live.state
        lost = live.apply(snapshot, is_final=is_final, may_reset=may_reset)
        if lost is None:
            return False
        if lost:
            log.error("store_went_on", topic=live.name, lost=lost, stored=snapshot.version)
            if live.tenant is not None:
                self.want_usage(live.name, *before)
        if is_final and live.confirmed:
            self.unread.discard(live.channel)
        self._deliver(live)
        return True

    def retract(self, snapshot: Snapshot) -> None:
        """Go back to the store's version: the newer one was announced by another installation."""
        live = self.topic(snapshot.topic)
        if live is not None:
            live.replace(snapshot)
            self.apply_snapshot(snapshot)

    def _check_chain(self, live: LiveTopic, version: int, state: bytes) -> None:
        """Request that the usage held here is restored, if the store has lost it and has counted on."""
        if 0 < live.version < version and is_break(live.version, live.state, state):
            self.want_usage(live.name, live.version, live.state)

    def _deliver(self, live: LiveTopic) -> None:
        if live.usage is not None:
            self._request_read(live.usage.name)  # it shows the limits
        self.observers.call(HubObserver.version_applied, live)
        self._fan_out.close_erased_soon(live)
        live.wake_readers()
        self._fan_out.deliver(live)
