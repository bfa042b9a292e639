"""Every live topic's newest version and who is subscribed: fans out, greets, and never waits.

Attach first, read the store after, drop whatever is not newer: there is no gap and no lock. The hub does no I/O of its
own: it asks its feed for channels and its reader for reads through the callables it is given, and writes to sockets.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from os import write as write_fd
from typing import Protocol

import orjson
import structlog

from gateway.hub.fanout import CHUNK, in_chunks
from gateway.hub.observer import Observers
from gateway.hub.pending import PendingTopics
from gateway.metrics import Metrics
from gateway.ws import frames, protocol
from planwire_client.core.topic import RESERVED_KINDS
from sync.core import announcement
from sync.process import logs
from sync.store.keys import DEFAULT_KEYS, Keys
from sync.store.store import ABSENT, Snapshot

CROWD_ACK_AFTER_MS = 2000
"""Over how long the acks of a crowd are spread."""

ACK_STEP_MS = 250
"""The least time over which acks are spread for the number of browsers; doubled as often as that number needs."""

ACK_AFTER_MAX_MS = 64_000
"""The longest; beyond it a share of the versions is acked, and not each a little later still."""

LINGER_S = 5.0
"""How long a topic nobody watches stays live: a reload or a reconnect finds it still there."""

_INTERNAL = tuple(f"{kind}:" for kind in RESERVED_KINDS)

LOGGER = "gateway.node"
"""Logger of what browsers answer."""

log = structlog.get_logger()

AHEAD = -2
"""Stands for the version of a browser that holds something newer than is known here, until the store has told."""


class Socket(Protocol):
    """What the hub needs of a socket.

    Attributes:
        pending: slots noted while it does not drain; None while it does.
        deflate: whether its frames may be compressed.
        opened_at: when its session was, in seconds since 1970.
    """

    pending: PendingTopics[Subscription] | None
    deflate: bool
    opened_at: float

    @property
    def direct_fd(self) -> int:
        """The descriptor while a frame may be written straight to it, else -1."""

    def write(self, data: bytes) -> None:
        """Hand over one WebSocket frame."""

    def end(self, topic: str, reason: str) -> None:
        """Leave the topic, and say `gone`."""

    def write_remainder(self, data: bytes, sent: int) -> None:
        """Send what is left of a frame of which the descriptor took `sent` bytes; 0 also where it failed."""


class Subscription:
    """One socket's hold on one topic.

    Attributes:
        sent: the newest version the browser was sent or said it holds; -1 before the topic is known here, and AHEAD
            while it holds something newer than that.
        client_version: the version that it said it holds, on subscribing; 0: none.
        acked, nacked: the newest versions that it answered for; 0: none.
    """

    __slots__ = ("acked", "client_version", "index", "live", "nacked", "sent", "socket")

    def __init__(self, socket: Socket, live: LiveTopic, client_version: int, index: int) -> None:
        self.socket = socket
        self.live = live
        self.client_version = client_version
        self.index = index
        self.sent = -1
        self.acked = 0
        self.nacked = 0

    def record_ack(self, version: int) -> bool:
        """Return whether the ack counts: it is newer than the last one, and the version was sent."""
        if not self.acked < version <= self.sent:
            return False
        self.acked = version
        return True

    def record_nack(self, version: int) -> bool:
        """Return whether the nack counts: the topic has had the version."""
        if version > self.live.version:
            return False
        self.nacked = version
        return True


class LiveTopic:
    """The newest known version of a topic, its encoded frames (made once, on first use) and its subscriptions.

    Attributes:
        known: read from the store since the bus was last lost; until then nobody is answered.
        confirmed: whether the bus carries it, as far as it has said.
        doubted: a browser claims to hold something newer; the store is being asked.
        overtaken: an older version that was announced later, until the store is known to have this one or a newer: has
            it not, it has lost this one, and gone on; 0: none.
        owner: who computes it, BILLING or PUBLISHER; empty while that is not known.
        erased: nothing is to come: what the topic was about is no more.
        is_internal: a topic of the gateways' own: not counted, and not put back into a store that lost it.
        unproven: the version, if only an announcement without an owner has told it and no read has; 0: none. A build
            from before the owner announces so, and it may be another installation's on the same channels.
        ack_all: every browser is asked to acknowledge every version, however many they are.
    """

    __slots__ = (
        "ack_all",
        "base",
        "cause",
        "channel",
        "confirmed",
        "cursor",
        "erased",
        "frames",
        "idle_since",
        "is_internal",
        "known",
        "late_version",
        "name",
        "owner",
        "patch",
        "policy",
        "readers",
        "remaining",
        "state",
        "subscriptions",
        "unproven",
        "verifying",
        "version",
        "waiters",
    )

    def __init__(self, name: str, channel: bytes) -> None:
        self.name = name
        self.channel = channel
        self.is_internal = name.startswith(_INTERNAL)
        self.ack_all = False
        self.version = 0
        self.base = 0
        self.state = ABSENT
        self.patch = b""
        self.cause = b""
        self.owner = ""
        self.erased = False
        self.known = False
        self.confirmed = False
        self.verifying = False
        self.late_version = 0
        self.unproven = 0
        self.subscriptions: list[Subscription] = []
        self.cursor = 0
        self.remaining = 0
        self.policy: tuple[tuple[float, int], bytes] | None = None
        self.readers = 0
        self.waiters: list[asyncio.Future[None]] = []
        self.idle_since: float | None = None
        self.frames: list[bytes | None] = [None, None, None, None]

    def set(
        self,
        version: int,
        state: bytes,
        cause: bytes,
        base: int = 0,
        patch: bytes = b"",
        owner: str = "",
        erased: bool = False,
    ) -> None:
        """Make this the newest version. An `owner` that is not known (empty) stays the one before."""
        self.version, self.state, self.cause, self.base, self.patch = version, state, cause, base, patch
        self.owner, self.erased = owner or self.owner, erased
        self.frames = [None, None, None, None]

    def frame(self, as_patch: bool, deflate: bool) -> bytes:
        """Return the WebSocket frame of the newest version; the same bytes for every socket of a kind."""
        slot = 2 * as_patch + deflate
        encoded = self.frames[slot]
        if encoded is None:
            text = (
                protocol.patch(self.name, self.base, self.version, self.patch, self.cause)
                if as_patch
                else protocol.snapshot(self.name, self.version, self.state, self.cause)
            )
            encoded = self.frames[slot] = frames.text(text, deflate)
        return encoded


def ack_rule(subscriptions: int, after_ms: int, acks_per_s: int) -> tuple[float, int]:
    """Return the share of versions to ack, and the milliseconds to spread that over, for a process with so many.

    A subscription has at most one ack under way, and a newer version takes its place, so whatever is published, each
    acks at most once in that time: n of them n / time in a second. `after_ms` is what the settings ask for.
    """
    needed_ms = subscriptions * 1000 / acks_per_s
    if needed_ms <= max(after_ms, ACK_STEP_MS):
        return 1, after_ms
    needed_ms, spread_ms = needed_ms / ACK_STEP_MS, ACK_STEP_MS
    while needed_ms > 1 and spread_ms < ACK_AFTER_MAX_MS:
        needed_ms, spread_ms = needed_ms / 2, spread_ms * 2
    share = 1.0
    while needed_ms > 1:
        needed_ms, share = needed_ms / 2, share / 2
    return share, spread_ms


class Hub:
    """All live topics of the process.

    Attributes:
        observers: what follows the hub.
        verified_at_us: when the bus was last proved to deliver, microseconds since 1970; 0: never.
        unsettled: the channels not yet read again since the bus was lost; while there are any, nothing is fresh.
        subscription_count: how many there are, of all sockets together.
        want_reconcile: called with a topic whose newest state is lost, so that it is compared with its provider.
    """

    def __init__(
        self,
        metrics: Metrics,
        subscribe: Callable[[bytes], None],
        unsubscribe: Callable[[bytes], None],
        reread: Callable[[str], None],
        acks_per_topic: int = 100,
        acks_per_s: int = 2000,
        ack_after_ms: int = 250,
        want_reconcile: Callable[[str], None] = lambda name: None,
        keys: Keys = DEFAULT_KEYS,
    ) -> None:
        self._keys = keys
        self.topics: dict[bytes, LiveTopic] = {}
        self.unsettled: set[bytes] = set()
        self._unfinished: deque[LiveTopic] = deque()
        self.observers = Observers()
        self._internal_topics = 0
        self._fresh_until = -math.inf
        self.verified_at_us = 0
        self._metrics = metrics
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._reread = reread
        self.want_reconcile = want_reconcile
        self.subscription_count = 0
        self._acks_per_topic = acks_per_topic
        self._acks_per_s = acks_per_s
        self._ack_after_ms = ack_after_ms
        self._idle: dict[LiveTopic, None] = {}

    @property
    def fresh(self) -> bool:
        """Whether the bus is proved to deliver; not any more, if the process stood still for longer than that holds."""
        return time.monotonic() < self._fresh_until

    def set_fresh_until(self, at: float) -> None:
        """Set until when the bus is proved to deliver, in monotonic seconds; -inf while it is not."""
        self._fresh_until = at

    def set_verified(self, at_us: int) -> None:
        """Set when the bus was last proved to deliver, in microseconds since 1970."""
        self.verified_at_us = at_us

    @property
    def topic_count(self) -> int:
        """Number of live topics, without the gateways' own."""
        return len(self.topics) - self._internal_topics

    # Topics come and go.

    def _channel(self, name: str) -> bytes:
        return self._keys.channel(name).encode()

    def topic(self, name: str) -> LiveTopic | None:
        """Return the live topic of that name, or None."""
        return self.topics.get(self._channel(name))

    def _enter(self, name: str) -> LiveTopic:
        channel = self._channel(name)
        live = self.topics.get(channel)
        if live is None:
            live = self.topics[channel] = LiveTopic(name, channel)
            self._internal_topics += live.is_internal
            self._subscribe(channel)
        if live.idle_since is not None:
            live.idle_since = None
            self._idle.pop(live, None)
        return live

    def _leave(self, live: LiveTopic) -> None:
        if not live.subscriptions and not live.readers:
            live.idle_since = time.monotonic()
            self._idle[live] = None

    def expire_idle(self) -> None:
        """Drop the topics that nobody has watched for `LINGER_S`."""
        limit = time.monotonic() - LINGER_S
        for live in list(self._idle):
            assert live.idle_since is not None
            if live.idle_since > limit:
                break  # in order of leaving
            del self._idle[live]
            del self.topics[live.channel]
            self._internal_topics -= live.is_internal
            self.unsettled.discard(live.channel)
            self._unsubscribe(live.channel)

    # Sockets.

    def attach(self, socket: Socket, name: str, held: int) -> Subscription:
        """Return the subscription of `socket`, which holds version `held`; it is greeted once the topic is known."""
        live = self._enter(name)
        subscription = Subscription(socket, live, held, len(live.subscriptions))
        live.subscriptions.append(subscription)
        self.observers.subscription_opened(subscription)
        self.subscription_count += 1
        if live.remaining:
            live.remaining += 1  # the newcomer stands between the cursor and those that come after the wrap
        if self.is_sampled(live):
            socket.write(self._ack_policy(live))
        if live.known:
            self._send_initial(subscription)
        return subscription

    def is_sampled(self, live: LiveTopic) -> bool:
        """Whether the topic has more browsers than are to ack a version."""
        return len(live.subscriptions) > self._acks_per_topic

    def ack_rule(self) -> tuple[float, int]:
        """Return the share and the spread in ms of acks that go for every topic, with as many browsers as are here."""
        return ack_rule(self.subscription_count, self._ack_after_ms, self._acks_per_s)

    def send_ack_policy(self, subscription: Subscription) -> None:
        """Tell a browser again how it is to ack this topic, unless it does not drain."""
        if subscription.socket.pending is None:
            subscription.socket.write(self._ack_policy(subscription.live))

    def _ack_policy(self, live: LiveTopic) -> bytes:
        """Return the frame that says how a browser is to ack this topic: in a crowd only now and then.

        Each newcomer is told a share that fits the crowd it joins; with the larger shares of those before it, a topic
        of n sockets gets about `acks_per_topic` * (1 + ln(n / acks_per_topic)) acks a version.
        """
        share, after_ms = (1.0, self._ack_after_ms) if live.ack_all else self.ack_rule()
        if self.is_sampled(live):
            after_ms = max(after_ms, CROWD_ACK_AFTER_MS)
            if not live.ack_all:
                share *= 2.0 ** -(len(live.subscriptions) // self._acks_per_topic).bit_length()
        if live.policy is None or live.policy[0] != (share, after_ms):
            live.policy = (share, after_ms), frames.text(protocol.ack_policy(live.name, share, after_ms), False)
        return live.policy[1]

    def set_ack_all(self, live: LiveTopic, ack_all: bool) -> None:
        """Have every browser of the topic acknowledge every version from now on, or as many as the rule says again."""
        if live.ack_all == ack_all:
            return
        live.ack_all = ack_all
        if self.is_sampled(live) or self.ack_rule() != (1, self._ack_after_ms):
            in_chunks(list(live.subscriptions), self._advise_present)

    def _advise_present(self, subscription: Subscription) -> None:
        ring, index = subscription.live.subscriptions, subscription.index
        if index < len(ring) and ring[index] is subscription:
            self.send_ack_policy(subscription)

    def detach(self, subscription: Subscription) -> None:
        """End `subscription`."""
        self.subscription_count -= 1
        live, ring = subscription.live, subscription.live.subscriptions
        last = ring.pop()
        if last is not subscription:
            ring[subscription.index] = last
            last.index = subscription.index
            if live.remaining:
                live.remaining = len(ring)  # the moved one may have jumped behind the cursor: go round once more
        if subscription.socket.pending is not None:
            subscription.socket.pending.discard(subscription)
        self._leave(live)
        self.observers.subscription_closed(subscription)

    def record_ack(self, subscription: Subscription, version: int) -> None:
        """Count that a browser's listeners ran with `version`."""
        if not subscription.record_ack(version):
            return
        self.observers.version_acked(subscription)
        live = subscription.live
        if live.is_internal:
            return
        self._metrics.acks += 1
        # A page that was opened later has not waited for it: its ack tells the version's age and no latency.
        if version / 1e6 >= subscription.socket.opened_at:
            self._metrics.acked(version, _occurred_at(live.cause) if version == live.version else None)

    def record_nack(self, subscription: Subscription, version: int, reason: str) -> None:
        """Count that a browser could not use `version`; a version that nobody was sent is ignored."""
        if not subscription.record_nack(version):
            return
        self._metrics.nacks += 1
        logs.limited(LOGGER, "nack", topic=subscription.live.name, version=version, reason=reason)
        self.observers.version_nacked(subscription, reason)

    def resubscribe(self, subscription: Subscription, held: int) -> None:
        """Greet again: the browser says it holds `held` now."""
        subscription.client_version, subscription.sent = held, -1
        if subscription.live.known:
            self._send_initial(subscription)

    def _send_initial(self, subscription: Subscription) -> None:
        """Answer a subscribe: the newest state, or that what is held is the newest."""
        live, held = subscription.live, subscription.client_version
        if held > live.version:
            # Newer than anything known here: either this copy is behind or the store lost its tail. The store decides.
            subscription.sent = AHEAD
            live.verifying = True
            self._reread(live.name)
        elif held == live.version and held:
            subscription.sent = held
            subscription.socket.write(frames.text(protocol.current(live.name, held), False))
        else:
            subscription.sent = held or -1  # holding nothing is less than being told that there is nothing
            self._deliver(subscription)
        self._close_erased_soon(live)

    def send_latest(self, subscription: Subscription) -> None:
        """Send what the browser lacks: the newest version, or the way back to it. Nothing when it holds that."""
        live = subscription.live
        is_ahead = subscription.sent == AHEAD and subscription.client_version > live.version
        if is_ahead or subscription.sent > live.version:
            if not live.verifying:
                self._reset(subscription)
        elif subscription.sent < 0:
            if live.known:
                self._send_initial(subscription)
        elif subscription.sent < live.version:
            self._deliver(subscription)

    def _reset(self, subscription: Subscription) -> None:
        """Send the browser back to what there is: what it holds is lost, and its provider knows what should be."""
        if not self._drains(subscription):
            return
        live = subscription.live
        subscription.sent = live.version
        self._metrics.resets += 1
        self.want_reconcile(live.name)
        text = protocol.snapshot(live.name, live.version, live.state, live.cause, reset=True)
        subscription.socket.write(frames.text(text, False))

    def _drains(self, subscription: Subscription) -> bool:
        """Whether the socket takes a state now; one that does not gets a slot, and the newest when it does again."""
        pending = subscription.socket.pending
        if pending is None:
            return True
        if pending.offer(subscription):
            self._metrics.replaced += 1
        return False

    def _deliver(self, subscription: Subscription) -> None:
        live, socket = subscription.live, subscription.socket
        if not self._drains(subscription):
            return
        as_patch = live.base != 0 and live.base == subscription.sent
        subscription.sent = live.version
        encoded = live.frame(as_patch, socket.deflate)
        self._metrics.delivered(1, len(encoded), as_patch)
        socket.write(encoded)

    # Announcements and reads.

    def announce(self, channel: bytes, payload: bytes) -> None:
        """Take one announcement off the bus and fan it out, if it is newer."""
        live = self.topics.get(channel)
        if live is None:
            return
        try:
            version, base, cause, patch, state, owner, erased = announcement.parse(payload)
        except ValueError:
            self._metrics.bad_announcements += 1
            return
        if version <= live.version:
            if version < live.version and not live.late_version:
                # Late, since this one was read and not heard. Or the store has lost this one, and its clock is behind
                # the one that made it: then versions do not rise.
                live.late_version = version
                self._reread(live.name)
            return
        live.set(version, state, cause, base, patch, owner, erased)
        live.late_version = 0
        live.unproven = 0 if owner else version
        if live.known:
            self._fan_out(live)
        if not live.is_internal:
            self._metrics.announced(version)

    def confirmed(self, channel: bytes) -> None:
        """Note that the bus carries `channel` now; whoever reports it sees to it that the store is read next."""
        live = self.topics.get(channel)
        if live is not None:
            live.confirmed = True

    def invalidate(self, channels: Iterable[bytes] | None = None) -> None:
        """Doubt the topics announced on `channels` (None: all): their bus was lost.

        Sockets keep what they have; new ones wait for the next read.
        """
        for channel in list(self.topics if channels is None else channels):
            if (live := self.topics.get(channel)) is not None:
                live.known = live.confirmed = False
                self.unsettled.add(channel)

    def apply_snapshot(self, snapshot: Snapshot, is_final: bool = True, may_reset: bool = True) -> bool:
        """Take what the store holds. `is_final`: nobody has asked for it again since the read was sent.

        A read that was sent before the subscription was confirmed, or before a browser said it holds something newer,
        tells nothing about either; the one asked for then will. `may_reset`: whoever could put something newer back
        has had the time, so a browser that holds more may be told to go back.

        Returns False when the store is older than what is known here: it has lost its tail, and nobody is told so
        until it is known whether this copy can be put back. Unless changes have been announced since: what was lost is
        not to be put over them, and browsers are told to go back to them.
        """
        live = self.topic(snapshot.topic)
        if live is None:
            return True
        if snapshot.version < live.version and not live.is_internal:
            if not (is_final and 0 < live.late_version <= snapshot.version):
                return False
            log.error("store_went_on", topic=live.name, lost=live.version, stored=snapshot.version)
            live.version = 0
        if snapshot.version >= live.version:
            live.unproven = 0
        if snapshot.version > live.version:
            live.set(snapshot.version, snapshot.state, snapshot.cause, owner=snapshot.owner, erased=snapshot.erased)
        live.late_version = 0
        live.known = True
        if is_final:
            live.verifying = live.verifying and not may_reset
            if live.confirmed:
                self.unsettled.discard(live.channel)
        self._fan_out(live)
        return True

    def retract(self, snapshot: Snapshot) -> None:
        """Go back to what the store holds: the newer version was announced by another installation."""
        live = self.topic(snapshot.topic)
        if live is not None:
            live.unproven = 0
            live.set(snapshot.version, snapshot.state, snapshot.cause, owner=snapshot.owner, erased=snapshot.erased)
            self.apply_snapshot(snapshot)

    def _close_erased_soon(self, live: LiveTopic) -> None:
        """Where the topic was erased, end every subscription to it: later, since whoever attaches is not done yet."""
        if live.erased:
            asyncio.get_running_loop().call_soon(self._close_erased, live)

    def _close_erased(self, live: LiveTopic) -> None:
        if live.erased:
            for subscription in live.subscriptions[-CHUNK:]:  # each that ends takes itself out of the ring
                self.send_latest(subscription)
                subscription.socket.end(live.name, "erased")
            if live.subscriptions:
                asyncio.get_running_loop().call_soon(self._close_erased, live)

    def _fan_out(self, live: LiveTopic) -> None:
        self.observers.version_applied(live)
        self._close_erased_soon(live)
        for waiter in live.waiters:
            if not waiter.done():
                waiter.set_result(None)
        live.waiters.clear()
        if live.remaining:
            live.remaining = len(live.subscriptions)  # a newer version overtakes: from where it stands, once round
            self._metrics.conflated += 1
            return
        live.cursor, live.remaining = 0, len(live.subscriptions)
        if live.remaining <= CHUNK:
            self._deliver_chunk(live)
            return
        self._unfinished.append(live)
        if len(self._unfinished) == 1:
            self._deliver_next()

    def _deliver_next(self) -> None:
        """Serve a chunk of one crowd: in each turn of the event loop another's, however many have news."""
        live = self._unfinished.popleft()
        try:
            self._deliver_chunk(live)
        finally:
            if live.remaining:
                self._unfinished.append(live)
            if self._unfinished:
                asyncio.get_running_loop().call_soon(self._deliver_next)

    def _deliver_chunk(self, live: LiveTopic) -> None:
        ring = live.subscriptions
        live.remaining = min(live.remaining, len(ring))
        count = min(CHUNK, live.remaining)
        start = live.cursor if live.cursor < len(ring) else 0
        end = start + count
        chunk = ring[start:end]
        if end > len(ring):
            end -= len(ring)
            chunk += ring[:end]
        live.cursor = end
        live.remaining -= count
        self._deliver_all(live, chunk)

    def _deliver_all(self, live: LiveTopic, chunk: list[Subscription]) -> None:
        """Serve each of `chunk`.

        In a crowd nearly everyone drains, lacks the newest and holds what the one before it holds. For those, what
        `serve` does is done in line, and this loop is what a delivery costs beyond its system call.
        """
        version, base, metrics = live.version, live.base or None, self._metrics
        held: int | None = None
        deflate = False
        encoded, size, count = b"", 0, 0
        for subscription in chunk:
            socket = subscription.socket
            fd = socket.direct_fd
            if subscription.sent != held or socket.deflate is not deflate or fd < 0:
                if fd < 0 or not 0 <= subscription.sent < version:
                    self.send_latest(subscription)
                    continue
                metrics.delivered(count, size, held == base)
                held, deflate, count = subscription.sent, socket.deflate, 0
                encoded = live.frame(held == base, deflate)
                size = len(encoded)
            subscription.sent = version
            count += 1
            try:
                sent = write_fd(fd, encoded)
            except OSError:  # it takes no more, or is gone
                sent = 0
            if sent != size:
                socket.write_remainder(encoded, sent)
        metrics.delivered(count, size, held == base)

    # Readers that are not sockets.

    def watch(self, name: str) -> Watch:
        """Return a watch on the topic, to be entered with `async with`."""
        return Watch(self, name)

    def live_names(self) -> list[str]:
        """Return the names of all live topics, as they are now."""
        return [live.name for live in self.topics.values()]


class Watch:
    """One HTTP reader's hold on a topic; the topic stays live while it is open."""

    def __init__(self, hub: Hub, name: str) -> None:
        self._hub = hub
        self._name = name
        self.latest: LiveTopic

    async def __aenter__(self) -> Watch:
        self.latest = self._hub._enter(self._name)
        self.latest.readers += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.latest.readers -= 1
        self._hub._leave(self.latest)

    async def newer_than(self, version: int, timeout_s: float) -> LiveTopic | None:
        """Return the topic once it is known and newer than `version` (-1: once it is known), or None on timeout."""
        live = self.latest
        try:
            async with asyncio.timeout(timeout_s):
                while not (live.known and live.version > version):
                    waiter = asyncio.get_running_loop().create_future()
                    live.waiters.append(waiter)
                    try:
                        await waiter
                    finally:
                        if waiter in live.waiters:
                            live.waiters.remove(waiter)
        except TimeoutError:
            return None
        return live


def _occurred_at(cause: bytes) -> float | None:
    """Return when the cause says it occurred, in seconds since 1970."""
    if not cause:
        return None
    try:
        return datetime.fromisoformat(orjson.loads(cause)["occurred_at"]).timestamp()
    except (ValueError, KeyError, TypeError):
        return None
