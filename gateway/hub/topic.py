"""A live topic: its newest known version, its frames, and its subscriptions. Does no I/O.

`LiveTopic` decides what an announcement or a read changes. The hub reads the store and sends what follows from it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

import orjson

from gateway.hub.subscription import Socket, Subscription
from gateway.ws import frames, protocol
from planwire_client.core.frames import AckRule
from planwire_client.core.topic import RESERVED_KINDS
from sync.core.announcement import Announcement
from sync.store.models import ABSENT, Snapshot

_INTERNAL = tuple(f"{kind}:" for kind in RESERVED_KINDS)


class Announced(Enum):
    """What an announcement is to a topic."""

    NEWER = "newer: it is the newest version now"
    LATE = "older than the newest, the first such since that was confirmed: the store should be read"
    KNOWN = "the newest, or older than one that was late already"


@dataclass(slots=True, eq=False)
class LiveTopic:
    """The newest known version of a topic, its encoded frames (made once, on first use) and its subscriptions.

    Attributes:
        known: the store was read since the bus was last lost; until then subscriptions are not answered.
        confirmed: the bus has confirmed the subscription of the channel.
        verifying: a browser claims to hold something newer, and the store is being read for it.
        late_version: version of an older announcement that came after the newest. Set until a read confirms that the
            store still has the newest: if it has not, it has lost it and gone on. 0: none.
        owner: who computes the state, BILLING or PUBLISHER; empty while that is not known.
        erased: what the topic was about was erased; nothing is to come.
        is_internal: a topic of the gateways' own: not counted, and not put back into a store that lost it.
        unproven: the version, if it is known only from an announcement without an owner and from no read; 0: none. A
            build from before the owner announces so, and may be another installation's on the same channels.
        ack_all: every browser is asked to acknowledge every version, however many they are.
        remaining: subscriptions still to be served in the round under way; 0: none is.
        readers: readers that are not sockets.
    """

    name: str
    channel: bytes
    version: int = 0
    base: int = 0
    state: bytes = ABSENT
    patch: bytes = b""
    cause: bytes = b""
    owner: str = ""
    erased: bool = False
    known: bool = False
    confirmed: bool = False
    verifying: bool = False
    late_version: int = 0
    unproven: int = 0
    is_internal: bool = False
    ack_all: bool = False
    remaining: int = 0
    readers: int = 0
    subscriptions: list[Subscription] = field(default_factory=list)
    _cursor: int = 0
    _frames: list[bytes | None] = field(default_factory=lambda: [None] * 4)
    _ack_policy: tuple[AckRule, bytes] | None = None
    _change: asyncio.Event | None = None  # from its first reader on

    def __post_init__(self) -> None:
        self.is_internal = self.name.startswith(_INTERNAL)

    # The newest version.

    def set(self, newest: Announcement) -> None:
        """Make this the newest version. An empty owner (not known) keeps the one before."""
        self.version, self.base, self.cause, self.patch, self.state, owner, self.erased = newest
        self.owner = owner or self.owner
        self._frames = [None] * 4

    def announce(self, announced: Announcement) -> Announced:
        """Take an announcement; return what it is to this topic."""
        version = announced.version
        if version > self.version:
            self.set(announced)
            self.late_version = 0
            self.unproven = 0 if announced.owner else version
            return Announced.NEWER
        if version == self.version or self.late_version:
            return Announced.KNOWN
        # Late, because this one was read before it was announced. Or the store has lost this one, and its clock is
        # behind the one that made it: then versions do not rise.
        self.late_version = version
        return Announced.LATE

    def apply(self, snapshot: Snapshot, *, is_final: bool, may_reset: bool) -> int | None:
        """Take what the store holds.

        Args:
            snapshot: what was read.
            is_final: no other read was requested since this one was sent. A read that was sent before the subscription
                was confirmed, or before a browser claimed something newer, says nothing about either.
            may_reset: every gateway that could put something newer back into the store has had the time to.

        Returns:
            None if the store is older: nothing has changed. Otherwise the version that the store has lost and gone on
            without, which is given up here too; 0: none.
        """
        lost = 0
        if snapshot.version < self.version and not self.is_internal:
            if not (is_final and 0 < self.late_version <= snapshot.version):
                return None
            lost, self.version = self.version, 0
        if snapshot.version >= self.version:
            self.unproven = 0
        if snapshot.version > self.version:
            self.replace(snapshot)
        self.late_version = 0
        self.known = True
        if is_final:
            self.verifying = self.verifying and not may_reset
        return lost

    def replace(self, snapshot: Snapshot) -> None:
        """Make a snapshot the newest version, also if it is older."""
        owner, erased = snapshot.owner, snapshot.erased
        self.set(Announcement(snapshot.version, 0, snapshot.cause, b"", snapshot.state, owner, erased))
        self.unproven = 0

    def occurred_at(self) -> float | None:
        """Return when the newest version's cause says it occurred, in seconds since 1970."""
        if not self.cause:
            return None
        try:
            return datetime.fromisoformat(orjson.loads(self.cause)["occurred_at"]).timestamp()
        except (ValueError, KeyError, TypeError):
            return None

    # Frames.

    def frame(self, as_patch: bool, deflate: bool) -> bytes:
        """Return the WebSocket frame of the newest version; the same bytes for every socket of a kind."""
        slot = 2 * as_patch + deflate
        encoded = self._frames[slot]
        if encoded is None:
            if as_patch:
                text = protocol.patch(self.name, self.base, self.version, self.patch, self.cause)
            else:
                text = protocol.snapshot(self.name, self.version, self.state, self.cause)
            encoded = self._frames[slot] = frames.text(text, deflate)
        return encoded

    def ack_policy_frame(self, rule: AckRule) -> bytes:
        """Return the frame that asks a browser to acknowledge this topic by `rule`; made once while the rule stays."""
        if self._ack_policy is None or self._ack_policy[0] != rule:
            self._ack_policy = rule, frames.text(protocol.ack_policy(self.name, *rule), False)
        return self._ack_policy[1]

    # Subscriptions, and the round in which a version is delivered to them.

    def subscribe(self, socket: Socket, client_version: int) -> Subscription:
        """Return a new subscription of `socket`, which holds `client_version` (0: none)."""
        subscription = Subscription(socket, self, client_version, len(self.subscriptions))
        self.subscriptions.append(subscription)
        if self.remaining:
            self.remaining += 1  # it stands between the cursor and those that come after the wrap
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription. The last one of the list takes its place."""
        last = self.subscriptions.pop()
        if last is not subscription:
            self.subscriptions[subscription.index] = last
            last.index = subscription.index
            if self.remaining:
                self.remaining = len(self.subscriptions)  # `last` may have moved behind the cursor: once round again

    def begin_round(self) -> bool:
        """Have every subscription served once from now on; return False if a round was under way.

        A round under way goes on from where it is, once round: the newer version overtakes.
        """
        is_new = not self.remaining
        if is_new:
            self._cursor = 0
        self.remaining = len(self.subscriptions)
        return is_new

    def next_chunk(self, limit: int) -> list[Subscription]:
        """Return the next subscriptions of the round, at most `limit`."""
        subscriptions = self.subscriptions
        if not self._cursor and self.remaining == len(subscriptions) <= limit:  # nearly every topic
            self.remaining = 0
            return subscriptions[:]
        self.remaining = min(self.remaining, len(subscriptions))
        count = min(limit, self.remaining)
        start = self._cursor if self._cursor < len(subscriptions) else 0
        end = start + count
        chunk = subscriptions[start:end]
        if end > len(subscriptions):
            end -= len(subscriptions)
            chunk += subscriptions[:end]
        self._cursor = end
        self.remaining -= count
        return chunk

    # Readers that are not sockets.

    async def newer_than(self, version: int, timeout_s: float) -> bool:
        """Return whether the topic is known and newer than `version` (-1: is known) within `timeout_s`."""
        self._change = self._change or asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                while not (self.known and self.version > version):
                    await self._change.wait()
        except TimeoutError:
            return False
        return True

    def wake_readers(self) -> None:
        """Have every `newer_than` look again."""
        if self._change is not None:
            self._change.set()
            self._change.clear()
