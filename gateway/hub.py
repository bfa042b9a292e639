"""Every live topic's newest version and who is subscribed: fans out, greets, and never waits.

Attach first, read the store after, drop whatever is not newer: there is no gap and no lock. The hub does no I/O of its
own: it asks its feed for channels and its reader for reads through the callables it is given, and writes to sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from gateway import frame, protocol
from gateway.metrics import Metrics
from gateway.outbox import Outbox
from sync.state import announcement, keys
from sync.state.store import ABSENT, Snapshot

CHUNK = 256
"""Deliveries made before the event loop is given back, so that pings, HTTP and other topics never wait for a crowd."""

CROWD_ACK_AFTER_MS = 2000
"""Over how long the acks of a crowd are spread."""

LINGER_S = 5.0
"""How long a topic nobody watches stays live: a reload or a reconnect finds it still there."""

AHEAD = -2
"""Stands for the version of a browser that holds something newer than is known here, until the store has told."""


class Socket(Protocol):
    """What the hub needs of a socket."""

    outbox: Outbox[Subscription] | None
    deflate: bool

    def write(self, data: bytes) -> None:
        """Hand over one WebSocket frame."""


class Subscription:
    """One socket's hold on one topic.

    Attributes:
        sent: the newest version the browser was sent or said it holds; -1 before the topic is known here, and AHEAD
            while it holds something newer than that.
        held: what it said on subscribing.
        acked, nacked: the newest versions it answered for, 0 for none.
    """

    __slots__ = ("acked", "held", "index", "live", "nacked", "sent", "socket")

    def __init__(self, socket: Socket, live: LiveTopic, held: int, index: int) -> None:
        self.socket = socket
        self.live = live
        self.held = held
        self.index = index
        self.sent = -1
        self.acked = 0
        self.nacked = 0


class LiveTopic:
    """The newest known version of a topic, its encoded frames (made once, on first use) and its subscriptions.

    Attributes:
        known: read from the store since the bus was last lost; until then nobody is answered.
        confirmed: whether the bus carries it, as far as it has said.
        doubted: a browser claims to hold something newer; the store is being asked.
    """

    __slots__ = (
        "base",
        "cause",
        "channel",
        "confirmed",
        "cursor",
        "doubted",
        "frames",
        "idle_since",
        "known",
        "name",
        "patch",
        "policy",
        "remaining",
        "ring",
        "state",
        "version",
        "waiters",
        "watchers",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.channel = keys.slot(name).encode()
        self.version = 0
        self.base = 0
        self.state = ABSENT
        self.patch = b""
        self.cause = b""
        self.known = False
        self.confirmed = False
        self.doubted = False
        self.ring: list[Subscription] = []
        self.cursor = 0
        self.remaining = 0
        self.policy: tuple[int, bytes] | None = None
        self.watchers = 0
        self.waiters: list[asyncio.Future[None]] = []
        self.idle_since: float | None = None
        self.frames: list[bytes | None] = [None, None, None, None]

    def set(self, version: int, state: bytes, cause: bytes, base: int = 0, patch: bytes = b"") -> None:
        """Make this the newest version."""
        self.version, self.state, self.cause, self.base, self.patch = version, state, cause, base, patch
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
            encoded = self.frames[slot] = frame.text(text, deflate)
        return encoded


class Hub:
    """All live topics of the process.

    Attributes:
        fresh: whether the bus is proved to deliver; set by the probe, said in every heartbeat.
        verified_at_us: when it was last proved, microseconds since 1970.
        unsettled: the channels not yet read again since the bus was lost; while there are any, nothing is fresh.
        want_reconcile: called with a topic whose newest state is lost, so that it is compared with its provider.
    """

    def __init__(
        self,
        metrics: Metrics,
        subscribe: Callable[[bytes], None],
        unsubscribe: Callable[[bytes], None],
        reread: Callable[[str], None],
        acks_per_topic: int = 100,
        want_reconcile: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.topics: dict[bytes, LiveTopic] = {}
        self.unsettled: set[bytes] = set()
        self.fresh = False
        self.verified_at_us = 0
        self._metrics = metrics
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._reread = reread
        self.want_reconcile = want_reconcile
        self._acks_per_topic = acks_per_topic
        self._idle: dict[LiveTopic, None] = {}

    # Topics come and go.

    def topic(self, name: str) -> LiveTopic | None:
        """Return the live topic of that name, or None."""
        return self.topics.get(keys.slot(name).encode())

    def _enter(self, name: str) -> LiveTopic:
        channel = keys.slot(name).encode()
        live = self.topics.get(channel)
        if live is None:
            live = self.topics[channel] = LiveTopic(name)
            self._subscribe(channel)
        if live.idle_since is not None:
            live.idle_since = None
            self._idle.pop(live, None)
        return live

    def _leave(self, live: LiveTopic) -> None:
        if not live.ring and not live.watchers:
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
            self.unsettled.discard(live.channel)
            self._unsubscribe(live.channel)

    # Sockets.

    def attach(self, socket: Socket, name: str, held: int) -> Subscription:
        """Return the subscription of `socket`, which holds version `held`; it is greeted once the topic is known."""
        live = self._enter(name)
        subscription = Subscription(socket, live, held, len(live.ring))
        live.ring.append(subscription)
        if live.remaining:
            live.remaining += 1  # the newcomer stands between the cursor and those that come after the wrap
        if len(live.ring) > self._acks_per_topic:
            socket.write(self._ack_policy(live))
        if live.known:
            self._greet(subscription)
        return subscription

    def _ack_policy(self, live: LiveTopic) -> bytes:
        """Return the frame that has a browser of a crowd ack only now and then.

        Each newcomer is told a share that fits the crowd it joins; with the larger shares of those before it, a topic
        of n sockets gets about `acks_per_topic` * (1 + ln(n / acks_per_topic)) acks a version; nobody is told twice.
        """
        halvings = (len(live.ring) // self._acks_per_topic).bit_length()
        if live.policy is None or live.policy[0] != halvings:
            share = 2.0**-halvings
            live.policy = halvings, frame.text(protocol.ack_policy(live.name, share, CROWD_ACK_AFTER_MS), False)
        return live.policy[1]

    def detach(self, subscription: Subscription) -> None:
        """End `subscription`."""
        live, ring = subscription.live, subscription.live.ring
        last = ring.pop()
        if last is not subscription:
            ring[subscription.index] = last
            last.index = subscription.index
            if live.remaining:
                live.remaining = len(ring)  # the moved one may have jumped behind the cursor: go round once more
        if subscription.socket.outbox is not None:
            subscription.socket.outbox.discard(subscription)
        self._leave(live)

    def renew(self, subscription: Subscription, held: int) -> None:
        """Greet again: the browser says it holds `held` now."""
        subscription.held, subscription.sent = held, -1
        if subscription.live.known:
            self._greet(subscription)

    def _greet(self, subscription: Subscription) -> None:
        """Answer a subscribe: the newest state, or that what is held is the newest."""
        live, held = subscription.live, subscription.held
        if held > live.version:
            # Newer than anything known here: either this copy is behind or the store lost its tail. The store decides.
            subscription.sent = AHEAD
            live.doubted = True
            self._reread(live.name)
        elif held == live.version and held:
            subscription.sent = held
            subscription.socket.write(frame.text(protocol.current(live.name, held), False))
        else:
            subscription.sent = held or -1  # holding nothing is less than being told that there is nothing
            self._deliver(subscription)

    def serve(self, subscription: Subscription) -> None:
        """Send what the browser lacks: the newest version, or the way back to it. Nothing when it holds that."""
        live = subscription.live
        is_ahead = subscription.sent == AHEAD and subscription.held > live.version
        if is_ahead or subscription.sent > live.version:
            if not live.doubted:
                self._reset(subscription)
        elif subscription.sent < 0:
            if live.known:
                self._greet(subscription)
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
        subscription.socket.write(frame.text(text, False))

    def _drains(self, subscription: Subscription) -> bool:
        """Whether the socket takes a state now; one that does not gets a slot, and the newest when it does again."""
        outbox = subscription.socket.outbox
        if outbox is None:
            return True
        if outbox.offer(subscription):
            self._metrics.replaced += 1
        return False

    def _deliver(self, subscription: Subscription) -> None:
        live, socket = subscription.live, subscription.socket
        if not self._drains(subscription):
            return
        as_patch = live.base != 0 and live.base == subscription.sent
        subscription.sent = live.version
        encoded = live.frame(as_patch, socket.deflate)
        metrics = self._metrics
        metrics.sent += 1
        metrics.sent_bytes += len(encoded)
        metrics.patches += as_patch
        socket.write(encoded)

    # Announcements and reads.

    def announce(self, channel: bytes, payload: bytes) -> None:
        """Take one announcement off the bus and fan it out, if it is newer."""
        live = self.topics.get(channel)
        if live is None:
            return
        try:
            version, base, cause, patch, state = announcement.parse(payload)
        except ValueError:
            self._metrics.bad_announcements += 1
            return
        if version <= live.version:
            return
        live.set(version, state, cause, base, patch)
        if live.known:
            self._fan_out(live)
        self._metrics.announced(version)

    def confirmed(self, channel: bytes) -> None:
        """Note that the bus carries `channel` now; whoever reports it sees to it that the store is read next."""
        live = self.topics.get(channel)
        if live is not None:
            live.confirmed = True

    def unknow(self) -> None:
        """Doubt every topic: the bus was lost. Sockets keep what they have; new ones wait for the next read."""
        for live in self.topics.values():
            live.known = live.confirmed = False
        self.unsettled.update(self.topics)

    def install(self, snapshot: Snapshot, is_final: bool = True, may_reset: bool = True) -> bool:
        """Take what the store holds. `is_final`: nobody has asked for it again since the read was sent.

        A read that was sent before the subscription was confirmed, or before a browser said it holds something newer,
        tells nothing about either; the one asked for then will. `may_reset`: whoever could put something newer back
        has had the time, so a browser that holds more may be told to go back.

        Returns False when the store is older than what is known here: it has lost its tail, and nobody is told so
        until it is known whether this copy can be put back.
        """
        live = self.topic(snapshot.topic)
        if live is None:
            return True
        if snapshot.version < live.version:
            return False
        if snapshot.version > live.version:
            live.set(snapshot.version, snapshot.state, snapshot.cause)
        live.known = True
        if is_final:
            live.doubted = live.doubted and not may_reset
            if live.confirmed:
                self.unsettled.discard(live.channel)
        self._fan_out(live)
        return True

    def _fan_out(self, live: LiveTopic) -> None:
        for waiter in live.waiters:
            if not waiter.done():
                waiter.set_result(None)
        live.waiters.clear()
        if live.remaining:
            live.remaining = len(live.ring)  # a newer version overtakes: from where it stands, once round
            self._metrics.conflated += 1
            return
        live.cursor, live.remaining = 0, len(live.ring)
        self._deliver_chunk(live)

    def _deliver_chunk(self, live: LiveTopic) -> None:
        ring = live.ring
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
        if live.remaining > 0 and ring:
            asyncio.get_running_loop().call_soon(self._deliver_chunk, live)
        else:
            live.remaining = 0

    def _deliver_all(self, live: LiveTopic, chunk: list[Subscription]) -> None:
        """Serve each of `chunk`. What `serve` does for the one that drains and lacks the newest is done in line here:
        in a crowd that is nearly everyone, and this loop is what a delivery costs beyond its system call."""
        version, frames = live.version, live.frames
        base = live.base or -1  # nobody holds version -1
        delivered = delivered_bytes = patches = 0
        for subscription in chunk:
            sent, socket = subscription.sent, subscription.socket
            if not 0 <= sent < version or socket.outbox is not None:
                self.serve(subscription)
                continue
            as_patch = sent == base
            encoded = frames[2 * as_patch + socket.deflate] or live.frame(as_patch, socket.deflate)
            subscription.sent = version
            delivered += 1
            delivered_bytes += len(encoded)
            patches += as_patch
            socket.write(encoded)
        metrics = self._metrics
        metrics.sent += delivered
        metrics.sent_bytes += delivered_bytes
        metrics.patches += patches

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
        self.latest.watchers += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.latest.watchers -= 1
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
