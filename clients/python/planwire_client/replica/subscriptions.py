"""The topics of one connection, and the handling of the gateway's frames (docs/protocol.md)."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from planwire_client.core import frames, merge_patch
from planwire_client.core.fields import FrameError
from planwire_client.core.frames import AckRule, Backoff
from planwire_client.replica.outgoing import Outgoing
from planwire_client.replica.snapshot import Changed, Snapshot
from planwire_client.replica.tokens import TokenKeeper, TokenSource
from planwire_client.replica.topic_state import Freshness, TopicState

OPEN_TIMEOUT_S = 10.0
"""Maximum seconds for connecting, and again for the welcome."""

MISSED_HEARTBEATS = 2.5
"""Heartbeat intervals of silence after which snapshots count as stale and the connection as dead."""

RECONNECT_MIN_MS, RECONNECT_MAX_MS = 500, 30_000
"""Bounds of the backoff until a welcome gives others."""

log = logging.getLogger("planwire_client")


class Subscriptions:
    """The topics of a connection, across all its sockets. The connection passes frames to it.

    Attributes:
        topics: the states by topic.
        freshness: until when the gateway's last statement of freshness counts.
        cause: the last problem that still persists, at most 300 characters; empty: none.
    """

    def __init__(self, tokens: TokenSource, changed: Changed, looked: Callable[[], None]) -> None:
        self.topics: dict[str, TopicState] = {}
        self.freshness = Freshness()
        self.cause = ""
        self._changed = changed
        self._looked = looked
        self._outgoing = Outgoing(self.topics)
        self._keeper = TokenKeeper(tokens, self._granted, self._report)
        self._welcomed = asyncio.Event()
        self._opened_at = float("inf")  # monotonic seconds of this socket's first welcome
        self._deadline = 0.0  # of the next sign of life, in the event loop's time
        self._silence_s = OPEN_TIMEOUT_S
        self._reconnect = Backoff(RECONNECT_MIN_MS, RECONNECT_MAX_MS)
        self._ack = AckRule(1.0, 250)
        self._ack_of: dict[str, AckRule] = {}

    def add(self, topic: str) -> TopicState:
        """Add a topic to keep current; return its state."""
        state = self.topics[topic] = TopicState(topic, self.freshness)
        self._outgoing.subscribe(topic)
        return state

    def remove(self, topic: str) -> None:
        """Remove the topic."""
        self.topics.pop(topic).doubt()
        self._ack_of.pop(topic, None)
        self._outgoing.unsubscribe(topic)

    def ask_again(self, topic: str, *, with_new_token: bool = False) -> None:
        """Subscribe to a refused topic again. If it is refused again, fetch a new token, unless `with_new_token`."""
        self.topics[topic].ask_anew(with_new_token=with_new_token)
        self._outgoing.subscribe(topic)

    def _granted(self, topics: set[str]) -> None:
        for topic in topics & self.topics.keys():
            self.ask_again(topic, with_new_token=True)

    def _report(self, cause: str) -> None:
        """Set `cause`; "": no problem."""
        self.cause = cause[:300]
        self._looked()

    def _begin(self) -> None:
        """Start a new socket, with a deadline for its welcome."""
        self._welcomed.clear()
        self._outgoing.begin()
        self._keeper.begin()
        self._silence_s = OPEN_TIMEOUT_S
        self._deadline = asyncio.get_running_loop().time() + self._silence_s

    def _end(self, why: str) -> None:
        """Record the loss of the socket: all snapshots count as stale."""
        self._opened_at = float("inf")
        self.freshness.extend(0)
        for state in self.topics.values():
            state.doubt()
        self._report(why)

    def receive(self, data: str | bytes) -> float | None:
        """Handle one frame; unknown types of later gateways are ignored.

        Returns: after a `bye`, the pause in seconds before reconnecting; else None.

        Raises:
            FrameError: the frame is invalid.
        """
        try:
            frame = frames.read_outbound(data)
        except FrameError as error:
            if error.code == "unknown_type":
                return None
            raise
        state = self.topics.get(getattr(frame, "topic", None) or "")
        match frame:
            case frames.Heartbeat():
                self._alive(frame.fresh)
            case frames.Welcome():
                self._welcome(frame)
            case frames.AckPolicy():
                self._ack_of[frame.topic] = AckRule(frame.share, frame.after_ms)
            case frames.Bye():
                return random.uniform(0, frame.reconnect_ms / 1000)  # noqa: S311 - jitter
            case frames.Error("forbidden") if state is not None:
                self._denied(state, "forbidden", is_believed=state.asked_again or self._keeper.is_fixed)
            case frames.Error():
                log.warning("planwire: the gateway says %s: %s", frame.code, frame.message)
            case frames.Snapshot() if state is not None:
                self._snapshot(state, frame)
            case frames.Patch() if state is not None:
                self._patch(state, frame)
            case frames.Current() if state is not None:
                self._current(state, frame.version)
            case frames.Gone() if state is not None:
                self._denied(state, frame.reason, is_believed=frame.reason != "expired" or state.asked_again)
        return None

    def _welcome(self, frame: frames.Welcome) -> None:
        self._silence_s = MISSED_HEARTBEATS * frame.heartbeat_ms / 1000
        self._reconnect, self._ack = frame.reconnect, frame.ack
        self._opened_at = min(self._opened_at, time.monotonic())
        self._keeper.expires(frame.token_expires_at)
        self._alive(frame.fresh)
        self._report("")
        self._welcomed.set()

    def _alive(self, is_fresh: bool) -> None:
        self._deadline = asyncio.get_running_loop().time() + self._silence_s
        self.freshness.extend(self._silence_s if is_fresh else 0)
        for state in self.topics.values():
            state.settle()
        self._looked()

    def _snapshot(self, state: TopicState, frame: frames.Snapshot) -> None:
        if state.snapshot is not None and not frame.reset and frame.version <= state.version:
            if frame.version == state.version:
                self._current(state, frame.version)
            return  # never go back to an older version
        self._install(state, Snapshot(state.topic, frame.version, frame.state, frame.cause or {}))

    def _patch(self, state: TopicState, frame: frames.Patch) -> None:
        if state.snapshot is None or state.version != frame.base:
            if state.snapshot is None or frame.version > state.version:
                self._outgoing.subscribe(state.topic)  # requests the state again
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
            # The error is in the caller's code. The snapshot stays valid, and the gateway gets a nack.
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

    def _denied(self, state: TopicState, reason: str, *, is_believed: bool) -> None:
        """Refuse the topic; if the token may be too old to grant it, fetch a new one first."""
        if is_believed:
            state.refuse(reason)
            self._looked()
        else:
            state.doubt()
            self._keeper.renew_for(state.topic)
