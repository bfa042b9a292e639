"""What the gateway's frames do to the topics of one connection (docs/protocol.md)."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping

from planwire_client.core import frames, merge_patch
from planwire_client.core.fields import FrameError
from planwire_client.core.frames import AckRule, Backoff
from planwire_client.replica.outgoing import Outgoing
from planwire_client.replica.snapshot import Snapshot
from planwire_client.replica.tokens import TokenKeeper
from planwire_client.replica.topic_state import Freshness, TopicState

OPEN_TIMEOUT_S = 10.0
"""How long a connection, and then its welcome, may take."""

MISSED_HEARTBEATS = 2.5
"""Silence for this many heartbeats: what is held may be old, and the connection is dead."""

OfTopic = frames.Snapshot | frames.Patch | frames.Current | frames.Gone

log = logging.getLogger("planwire_client")


class Incoming:
    """Takes frames, in order.

    Attributes:
        deadline: time of the event loop until which the next frame that proves life must have come.
        opened_at: monotonic seconds of this socket's first welcome; infinity before it.
        reconnect: the bounds of the pauses that the last welcome gave; None before the first.
    """

    def __init__(
        self,
        topics: Mapping[str, TopicState],
        freshness: Freshness,
        outgoing: Outgoing,
        keeper: TokenKeeper,
        changed: Callable[[Snapshot, Snapshot | None], None],
        looked: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        """`changed`: called with each new snapshot and the one before; `looked`: when freshness may have changed;
        `report`: with an empty text when a connection is open."""
        self.deadline = 0.0
        self.opened_at = float("inf")
        self.reconnect: Backoff | None = None
        self._topics = topics
        self._freshness = freshness
        self._outgoing = outgoing
        self._keeper = keeper
        self._changed = changed
        self._looked = looked
        self._report = report
        self._silence_s = OPEN_TIMEOUT_S
        self._ack = AckRule(1.0, 250)
        self._ack_of: dict[str, AckRule] = {}

    def begin(self) -> None:
        """A socket is open: its welcome must come in time."""
        self._silence_s = OPEN_TIMEOUT_S
        self.deadline = asyncio.get_running_loop().time() + self._silence_s

    def end(self) -> None:
        """There is no socket: whatever is held may be old."""
        self.opened_at = float("inf")
        self._freshness.extend(0)
        for state in self._topics.values():
            state.doubt()
        self._looked()

    def forget(self, topic: str) -> None:
        """Forget the topic's ack rule."""
        self._ack_of.pop(topic, None)

    def take(self, data: str | bytes) -> float | None:
        """Take one frame; a type that a later gateway added is ignored.

        Returns: after a `bye` the pause in seconds before coming back, else None.

        Raises:
            FrameError: it makes no sense.
        """
        try:
            return self._take(frames.read_outbound(data))
        except FrameError as error:
            if error.code == "unknown_type":
                return None
            raise

    def _take(self, frame: frames.Outbound) -> float | None:
        match frame:
            case frames.Heartbeat():
                self._alive(frame.fresh)
            case frames.Welcome():
                self._welcome(frame)
            case frames.AckPolicy():
                self._ack_of[frame.topic] = AckRule(frame.share, frame.after_ms)
            case frames.Bye():
                return random.uniform(0, frame.reconnect_ms / 1000)  # noqa: S311 - jitter
            case frames.Error():
                self._error(frame)
            case frames.Snapshot() | frames.Patch() | frames.Current() | frames.Gone():
                state = self._topics.get(frame.topic)
                if state is not None:
                    self._of_topic(state, frame)
        return None

    def _of_topic(self, state: TopicState, frame: OfTopic) -> None:
        match frame:
            case frames.Snapshot():
                self._snapshot(state, frame)
            case frames.Patch():
                self._patch(state, frame)
            case frames.Current():
                self._current(state, frame.version)
            case frames.Gone():
                self._denied(state, frame.reason, is_believed=frame.reason != "expired" or state.asked_again)

    def _welcome(self, frame: frames.Welcome) -> None:
        self._silence_s = MISSED_HEARTBEATS * frame.heartbeat_ms / 1000
        self.reconnect, self._ack = frame.reconnect, frame.ack
        self.opened_at = min(self.opened_at, time.monotonic())
        self._keeper.open(frame.token_expires_at)
        self._alive(frame.fresh)
        self._report("")
        self._outgoing.open()

    def _alive(self, is_fresh: bool) -> None:
        self.deadline = asyncio.get_running_loop().time() + self._silence_s
        self._freshness.extend(self._silence_s if is_fresh else 0)
        for state in self._topics.values():
            state.settle()
        self._looked()

    def _snapshot(self, state: TopicState, frame: frames.Snapshot) -> None:
        if state.snapshot is not None and not frame.reset and frame.version <= state.version:
            if frame.version == state.version:
                self._current(state, frame.version)
            return  # older than what is held: never
        self._install(state, Snapshot(state.topic, frame.version, frame.state, frame.cause or {}))

    def _patch(self, state: TopicState, frame: frames.Patch) -> None:
        if state.snapshot is None or state.version != frame.base:
            if state.snapshot is None or frame.version > state.version:
                self._outgoing.subscribe(state.topic)  # greeted anew, for what is held
            return
        merged = merge_patch.apply(state.snapshot.state, frame.patch)
        self._install(state, Snapshot(state.topic, frame.version, merged, frame.cause or {}))

    def _install(self, state: TopicState, snapshot: Snapshot) -> None:
        before = state.snapshot
        state.hold(snapshot)
        self._looked()
        try:
            self._changed(snapshot, before)
        except Exception as error:
            # The caller's own code; what is held is right all the same, and the gateway is told.
            log.exception("planwire: a listener failed on version %d of %s", snapshot.version, state.topic)
            self._outgoing.nack(state.topic, snapshot.version, repr(error)[:200])
            return
        share, after_ms = self._ack_of.get(state.topic, self._ack)
        if snapshot.version and random.random() < share:  # noqa: S311 - sampling
            at = time.monotonic() + random.uniform(0, after_ms / 1000)  # noqa: S311 - jitter
            self._outgoing.ack(state.topic, snapshot.version, at)

    def _current(self, state: TopicState, version: int) -> None:
        if state.snapshot is not None and state.version == version:
            state.confirm()
            self._looked()
        elif state.snapshot is None or state.version < version:
            self._outgoing.subscribe(state.topic)

    def _error(self, frame: frames.Error) -> None:
        state = self._topics.get(frame.topic or "")
        if frame.code != "forbidden" or state is None:
            log.warning("planwire: the gateway says %s: %s", frame.code, frame.message)
            return
        self._denied(state, "forbidden", is_believed=state.asked_again or self._keeper.is_fixed)

    def _denied(self, state: TopicState, reason: str, *, is_believed: bool) -> None:
        """Refuse the topic; or first have a new token fetched, where the one in use may be too old to open it."""
        if is_believed:
            state.refuse(reason)
            self._looked()
        else:
            state.doubt()
            self._keeper.renew_for(state.topic)
