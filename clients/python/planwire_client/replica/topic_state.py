"""What a replica holds of one topic, and for how long the gateway's word counts. Written by the topic's connection, in
the event loop; read from any thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from planwire_client.errors import TopicRefused
from planwire_client.replica.snapshot import Policy, Snapshot, decide

REFUSED_FOR_S = 30.0
"""How long a refused topic is believed to be, before a waiting call has it asked for again."""


class Freshness:
    """Until when the gateway's last word counts that it hears every change.

    Attributes:
        until: seconds of the monotonic clock; 0 while it does not count.
    """

    until = 0.0

    def extend(self, silence_s: float) -> None:
        """Let it count for `silence_s` seconds from now; 0: no longer."""
        self.until = time.monotonic() + silence_s if silence_s else 0.0


class TopicState:
    """What is held of one topic.

    Attributes:
        snapshot: the newest, or None before the first.
        confirmed: whether this connection has said that it is the newest.
        refused: why the topic is not served, or empty.
        asked_again: it was refused, and has been asked for since with a token fetched after that.
    """

    __slots__ = ("_freshness", "_refused_at", "_waiters", "asked_again", "confirmed", "refused", "snapshot", "topic")

    def __init__(self, topic: str, freshness: Freshness) -> None:
        self.topic = topic
        self.snapshot: Snapshot | None = None
        self.confirmed = False
        self.refused = ""
        self.asked_again = False
        self._freshness = freshness
        self._refused_at = 0.0
        self._waiters: list[tuple[int, asyncio.Future[Snapshot]]] = []

    @property
    def version(self) -> int:
        """The version held, 0 for none."""
        return self.snapshot.version if self.snapshot is not None else 0

    @property
    def is_fresh(self) -> bool:
        """Whether the snapshot is proved to be the newest, as of now: silence counts as no."""
        return self.confirmed and time.monotonic() < self._freshness.until

    @property
    def is_refused_lately(self) -> bool:
        """Whether the topic was refused so short a time ago that asking again would be answered alike."""
        return bool(self.refused) and time.monotonic() - self._refused_at < REFUSED_FOR_S

    def confirm(self) -> None:
        """Take the snapshot held for the newest."""
        self.confirmed, self.refused, self.asked_again = True, "", False
        self.settle()

    def doubt(self) -> None:
        """Take the snapshot held for one that may be old."""
        self.confirmed = False

    def hold(self, snapshot: Snapshot) -> None:
        """Hold `snapshot`, which the gateway has just sent."""
        self.snapshot = snapshot
        self.confirm()

    def ask_anew(self, *, with_new_token: bool) -> None:
        """Forget the last refusal. `with_new_token`: the next one is believed."""
        self.refused, self.asked_again = "", with_new_token

    def refuse(self, reason: str) -> None:
        """Let go of what is held, which is no longer ours to serve; everything that waits is answered."""
        self.snapshot, self.confirmed = None, False
        self.refused, self._refused_at = reason, time.monotonic()
        self.fail(TopicRefused(self.topic, reason))

    async def wait(self, version: int, timeout_s: float) -> Snapshot:
        """Return the snapshot once one of at least `version` is confirmed.

        Raises:
            TimeoutError: not within `timeout_s`.
            ReplicaError: what `fail` was given.
        """
        future: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        waiter = (version, future)
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            self._waiters.remove(waiter)

    def settle(self) -> None:
        """Answer those whose version is there."""
        if self.snapshot is not None and self._waiters and self.is_fresh:
            for version, future in self._waiters:
                if version <= self.snapshot.version and not future.done():
                    future.set_result(self.snapshot)

    def fail(self, error: Exception) -> None:
        """Answer all that wait."""
        for _, future in self._waiters:
            if not future.done():
                future.set_exception(error)


class Reading:
    """Reads that never wait, from any thread: what `Replica` and `ThreadReplica` have in common."""

    _states: Mapping[str, TopicState]

    def get(self, topic: str) -> Snapshot | None:
        """Return the newest snapshot held, however old; None where none is. `is_fresh` tells more."""
        state = self._states.get(topic)
        return state.snapshot if state is not None else None

    def is_fresh(self, topic: str) -> bool:
        """Return whether what is held of `topic` is proved to be the newest, as of now."""
        state = self._states.get(topic)
        return state is not None and state.is_fresh

    def require(
        self, topic: str, feature: str, *, min_version: int = 0, policy: Policy = Policy.FAIL_CLOSED
    ) -> Snapshot | None:
        """Return the snapshot that allows `feature`; None only where FAIL_OPEN lets pass with nothing held.

        min_version: what the caller is known to have seen already; anything older proves nothing.

        Raises:
            FeatureDenied: the state does not have the feature.
            NotCurrent: it cannot be said, and the policy does not let that pass. `ensure` waits instead.
            TopicRefused: the token does not open the topic; whatever the policy.
        """
        state = self._states.get(topic)
        if state is None:
            return decide(topic, None, False, feature, min_version, policy)
        if state.refused:
            raise TopicRefused(topic, state.refused)
        snapshot = state.snapshot
        # What nearly every call ends with, whatever its policy: said without the way through `decide`.
        if snapshot is not None and snapshot.version >= min_version and state.is_fresh and snapshot.has(feature):
            return snapshot
        return decide(topic, snapshot, state.is_fresh, feature, min_version, policy)
