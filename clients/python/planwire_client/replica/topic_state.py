"""A replica's state of one topic, and the freshness of a connection. The connection writes them in the event loop; any
thread may read them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from planwire_client.core.topic import usage_topic
from planwire_client.errors import TopicRefused
from planwire_client.meter_usage import MeterUsage, read_meter
from planwire_client.replica.snapshot import Policy, Snapshot, decide

REFUSED_FOR_S = 30.0
"""Seconds after a refusal before a waiting call requests the topic again."""


class Freshness:
    """Until when the gateway's last statement counts that it receives every change.

    Attributes:
        until: seconds of the monotonic clock; 0: not fresh.
    """

    until = 0.0

    def extend(self, silence_s: float) -> None:
        """Stay fresh for `silence_s` seconds from now; 0: end now."""
        self.until = time.monotonic() + silence_s if silence_s else 0.0


class TopicState:
    """The local state of one topic.

    Attributes:
        snapshot: the newest snapshot, or None before the first.
        confirmed: whether the current connection has confirmed the snapshot as the newest.
        refused: why the topic is refused, or empty.
        asked_again: the topic was refused, and was requested again with a newer token.
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
        """The version of the snapshot, 0 for none."""
        return self.snapshot.version if self.snapshot is not None else 0

    @property
    def is_fresh(self) -> bool:
        """Whether the snapshot is proved to be the newest now. Silence of the gateway ends the proof."""
        return self.confirmed and time.monotonic() < self._freshness.until

    @property
    def is_refused_lately(self) -> bool:
        """Whether the topic was refused so recently that another request is pointless."""
        return bool(self.refused) and time.monotonic() - self._refused_at < REFUSED_FOR_S

    def confirm(self) -> None:
        """Mark the snapshot as the newest."""
        self.confirmed, self.refused, self.asked_again = True, "", False
        self.settle()

    def doubt(self) -> None:
        """Mark the snapshot as possibly old."""
        self.confirmed = False

    def hold(self, snapshot: Snapshot) -> None:
        """Store `snapshot`, which the gateway has just sent."""
        self.snapshot = snapshot
        self.confirm()

    def ask_anew(self, *, with_new_token: bool) -> None:
        """Clear the last refusal. `with_new_token`: the next refusal is final."""
        self.refused, self.asked_again = "", with_new_token

    def refuse(self, reason: str) -> None:
        """Drop the snapshot, because access was refused; end all waiting calls."""
        self.snapshot, self.confirmed = None, False
        self.refused, self._refused_at = reason, time.monotonic()
        self.fail(TopicRefused(self.topic, reason))

    async def wait(self, version: int, timeout_s: float) -> Snapshot:
        """Wait until a snapshot of at least `version` is confirmed, and return it.

        Raises:
            TimeoutError: there was none within `timeout_s`.
            ReplicaError: the argument of `fail`.
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
        """Complete the waiting calls whose version has arrived."""
        if self.snapshot is not None and self._waiters and self.is_fresh:
            for version, future in self._waiters:
                if version <= self.snapshot.version and not future.done():
                    future.set_result(self.snapshot)

    def fail(self, error: Exception) -> None:
        """Raise `error` in all waiting calls."""
        for _, future in self._waiters:
            if not future.done():
                future.set_exception(error)


class Reading:
    """The reads of `Replica` and `ThreadReplica`: they never wait, and may be called from any thread."""

    _states: Mapping[str, TopicState]

    def get(self, topic: str) -> Snapshot | None:
        """Return the local snapshot, however old, or None. `is_fresh` says whether it is current."""
        state = self._states.get(topic)
        return state.snapshot if state is not None else None

    def is_fresh(self, topic: str) -> bool:
        """Return whether the snapshot of `topic` is proved to be the newest now."""
        state = self._states.get(topic)
        return state is not None and state.is_fresh

    def usage(self, tenant: str, meter: str) -> MeterUsage | None:
        """Return what the tenant with the topic `tenant` has used of a meter, by the local copy; None if not known.

        Call `watch_usage` before. The count and its limit are fresh only while they are of the version of the tenant's
        entitlements that is proved to be the newest: a limit of yesterday is never shown as that of now.
        """
        counts, entitlements = self._states.get(usage_topic(tenant)), self._states.get(tenant)
        snapshot = counts.snapshot if counts is not None else None
        if counts is None or snapshot is None or not isinstance(snapshot.state, dict):
            return None
        is_fresh = (
            counts.is_fresh
            and entitlements is not None
            and entitlements.is_fresh
            and snapshot.state.get("entitlements") == entitlements.version
        )
        return read_meter(snapshot.state, meter, is_fresh=is_fresh)

    def require(
        self, topic: str, feature: str, *, min_version: int = 0, policy: Policy = Policy.FAIL_CLOSED, app: str = ""
    ) -> Snapshot | None:
        """Return the snapshot that allows `feature`; None only if FAIL_OPEN allows it without a snapshot.

        min_version: the newest version that the caller has seen; an older snapshot is not current.
        app: the application of the tenant that must have it; "" for any of them.

        Raises:
            FeatureDenied: the state does not have the feature.
            NotCurrent: the policy does not allow it without a current snapshot. `ensure` waits instead.
            TopicRefused: the token does not grant the topic, under every policy.
        """
        state = self._states.get(topic)
        if state is None:
            return decide(topic, None, False, feature, min_version, policy, app)
        if state.refused:
            raise TopicRefused(topic, state.refused)
        snapshot = state.snapshot
        # Fast path for nearly every call under every policy, without `decide`.
        if (
            snapshot is not None
            and snapshot.version >= min_version
            and state.is_fresh
            and not app
            and snapshot.has(feature)
        ):
            return snapshot
        return decide(topic, snapshot, state.is_fresh, feature, min_version, policy, app)
