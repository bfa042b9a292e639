"""A live topic: its newest known version, its frames, and its subscriptions. Does no I/O.

`LiveTopic` decides what an announcement or a read changes. The hub does the I/O.
"""

from __future__ import annotations

import asyncio
import re
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


_LINEAGE = re.compile(rb'\{"base":(\d+),"since":(\d+),"run":"(\w*)",')


def is_break(held: int, held_state: bytes, state: bytes) -> bool:
    """Return whether the store has lost a version of a usage topic, by the state of a newer one.

    Args:
        held: the version held here.
        held_state: its state.
        state: the newer state. It names the version before it (`base`), the store's present history (`run`), and the
            version with which that began (`since`): a gateway that missed what was announced meanwhile knows by those.
    """
    new, old = _LINEAGE.match(state), _LINEAGE.match(held_state)
    if new is None or old is None:
        return False
    return int(new[1]) < held or (new[3] != old[3] and int(new[2]) < held)


class Announced(Enum):
    """How an announcement relates to the newest known version."""

    NEWER = "newer: it is the newest version now"
    LATE = "older than the newest, the first such since that was confirmed: the store should be read"
    KNOWN = "the newest, or older than one that was late already"


@dataclass(slots=True, eq=False)
class LiveTopic:
    """The newest known version of a topic, its encoded frames (made once, on first use) and its subscriptions.

    Attributes:
        known: the store was read since the bus was last lost. Subscriptions are answered only while this is set.
        confirmed: the bus has confirmed the subscription of the channel.
        verifying: a browser claims to hold a newer version, and the store is being read to check that.
        late_version: version of an older announcement that came after the newest; 0: none. Set until a read confirms
            that the store still has the newest. If not, the store lost it and has new commits since.
        owner: who computes the state, BILLING or PUBLISHER; empty: not known yet.
        erased: the topic was erased; no more versions follow.
        is_internal: a topic of the gateways themselves: not counted, and not restored into a store that lost it.
        unproven: the version, if it is known only from an announcement without an owner; 0 after a read. Older builds
            announce without an owner, and may belong to another installation on the same channels.
        ack_all: every browser acknowledges every version, however many browsers there are.
        remaining: subscriptions still to be served in the current round; 0: there is no round.
        readers: readers that are not sockets.
        tenant: of a usage topic, the topic whose limits it shows; it is live as long.
        usage: the live topic that shows what is used of this one's limits.
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
    tenant: LiveTopic | None = None
    usage: LiveTopic | None = None
    subscriptions: list[Subscription] = field(default_factory=list)
    _cursor: int = 0
    _frames: list[bytes | None] = field(default_factory=lambda: [None] * 4)
    _ack_policy: tuple[AckRule, bytes] | None = None
    _change: asyncio.Event | None = None  # created for the first reader

    def __post_init__(self) -> None:
        self.is_internal = self.name.startswith(_INTERNAL)

    # The newest version.

    def set(self, newest: Announcement) -> None:
        """Make this the newest version. An empty owner (not known) keeps the previous owner."""
        self.version, self.base, self.cause, self.patch, self.state, owner, self.erased = newest
        self.owner = owner or self.owner
        self._frames = [None] * 4

    def announce(self, announced: Announcement) -> Announced:
        """Apply an announcement; return how it relates to the newest known version."""
        version = announced.version
        if version > self.version:
            self.set(announced)
            self.late_version = 0
            self.unproven = 0 if announced.owner else version
            return Announced.NEWER
        if version == self.version or self.late_version:
            return Announced.KNOWN
        # Either the newest version was read before this announcement arrived. Or the store lost the newest version,
        # and its clock is behind the clock that made it, so new versions are lower.
        self.late_version = version
        return Announced.LATE

    def apply(self, snapshot: Snapshot, *, is_final: bool, may_reset: bool) -> int | None:
        """Apply a snapshot from the store.

        Args:
            snapshot: what was read.
            is_final: no other read was requested since this one was sent. Otherwise this read may be older than the
                confirmation of the subscription, or than a browser's claim to hold a newer version.
            may_reset: every gateway with a newer version has had the time to restore it into the store.

        Returns:
            None if the store is older and nothing has changed. Otherwise the version that the store has lost and that
            is dropped here too; 0: none.
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
        """Make a snapshot the newest version, even if it is older."""
        owner, erased = snapshot.owner, snapshot.erased
        self.set(Announcement(snapshot.version, 0, snapshot.cause, b"", snapshot.state, owner, erased))
        self.unproven = 0

    def occurred_at(self) -> float | None:
        """Return the `occurred_at` of the newest version's cause, in seconds since 1970, if it has one."""
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
        """Return the frame that sends `rule` for this topic; cached until the rule changes."""
        if self._ack_policy is None or self._ack_policy[0] != rule:
            self._ack_policy = rule, frames.text(protocol.ack_policy(self.name, *rule), False)
        return self._ack_policy[1]

    # Subscriptions, and the round that delivers a version to them.

    def subscribe(self, socket: Socket, client_version: int) -> Subscription:
        """Return a new subscription of a browser that holds `client_version` (0: none)."""
        subscription = Subscription(socket, self, client_version, len(self.subscriptions))
        self.subscriptions.append(subscription)
        if self.remaining:
            self.remaining += 1  # the round passes it before it wraps
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription. The last one of the list takes its position."""
        last = self.subscriptions.pop()
        if last is not subscription:
            self.subscriptions[subscription.index] = last
            last.index = subscription.index
            if self.remaining:
                self.remaining = len(self.subscriptions)  # `last` may be behind the cursor now: start a full round

    def begin_round(self) -> bool:
        """Start a round that serves every subscription once; return False if one was under way.

        A round under way continues from its position for one full round, with the newer version.
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
        """Return whether the topic is known and newer than `version` (-1: just known) within `timeout_s`."""
        self._change = self._change or asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                while not (self.known and self.version > version):
                    await self._change.wait()
        except TimeoutError:
            return False
        return True

    def wake_readers(self) -> None:
        """Wake every `newer_than`, which then checks again."""
        if self._change is not None:
            self._change.set()
            self._change.clear()
