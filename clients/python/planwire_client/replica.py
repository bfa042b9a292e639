"""A local copy of topics, kept current over WebSockets: reads are a dictionary's, and tell how far to rely on them.

For asyncio; thread.py has the same for threads. What a connection does is link.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Self

from planwire_client.errors import NotCurrent, ReplicaClosed, ReplicaError, TopicRefused
from planwire_client.link import REFUSED_FOR_S, TOPICS_PER_SOCKET, Held, Link, Token
from planwire_client.snapshot import Policy, Snapshot, decide

WAIT_S = 5.0
"""How long waiting calls wait where they are not told."""


class Status(StrEnum):
    """What a replica can vouch for: all of it (fresh), not all (stale), nothing yet (connecting), nothing more."""

    CONNECTING = "connecting"
    FRESH = "fresh"
    STALE = "stale"
    CLOSED = "closed"


Changed = Callable[[Snapshot, Snapshot | None], None]


class Replica:
    """The newest state of some topics, in this process. An async context manager; belongs to one event loop.

    `get`, `is_fresh`, `require` and `status` never wait, and may be called from any thread. Every 64 topics share
    one socket; what is watched stays watched until `unwatch`.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        topics: Iterable[str] = (),
        *,
        on_change: Changed | None = None,
        on_status: Callable[[Status], None] | None = None,
        topics_per_socket: int = TOPICS_PER_SOCKET,
    ) -> None:
        """Keep `topics` of the gateway at `url` (http or https).

        token: a token, or a function, plain or async, that returns one; it is asked again before the token ends, when
            the gateway refuses it, and before a topic's refusal is believed.
        on_change: called in the event loop with each new snapshot and the one before, None at first; must not block.
        on_status: called in the event loop when `status` changes. Silence is noticed without it.
        """
        self._url = url
        self._token = token
        self._on_change = on_change
        self._on_status = on_status
        self._topics_per_socket = topics_per_socket
        self._wanted = list(dict.fromkeys(topics))
        self._held: dict[str, Held] = {}
        self._links: list[Link] = []
        self._group: asyncio.TaskGroup | None = None
        self._runner: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._told = Status.CONNECTING
        self._is_telling = False
        self._was_fresh = False
        self._is_closed = False

    # Reading.

    def get(self, topic: str) -> Snapshot | None:
        """Return the newest snapshot held, however old; None where none is. `is_fresh` tells more."""
        held = self._held.get(topic)
        return held.snapshot if held is not None else None

    def is_fresh(self, topic: str) -> bool:
        """Return whether what is held of `topic` is proved to be the newest, as of now."""
        held = self._held.get(topic)
        return held is not None and held.is_fresh

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
        held = self._held.get(topic)
        if held is None:
            return decide(topic, None, False, feature, min_version, policy)
        if held.refused:
            raise TopicRefused(topic, held.refused)
        snapshot = held.snapshot
        # What nearly every call ends with, whatever its policy: said without the way through `decide`.
        if snapshot is not None and snapshot.version >= min_version and held.is_fresh and snapshot.has(feature):
            return snapshot
        return decide(topic, snapshot, held.is_fresh, feature, min_version, policy)

    @property
    def status(self) -> Status:
        """What the replica can vouch for now."""
        if self._is_closed or any(link.closed is not None for link in self._links):
            return Status.CLOSED
        now = time.monotonic()
        links, held = list(self._links), list(self._held.values())
        if links and all(now < one.fresh_until for one in links) and all(one.confirmed or one.refused for one in held):
            return Status.FRESH
        return Status.STALE if self._was_fresh else Status.CONNECTING

    # Watching and waiting.

    def watch(self, topic: str) -> None:
        """Keep `topic` from now on; watching twice is watching once.

        Raises:
            ReplicaClosed: there is no connection any more.
        """
        if topic not in self._held:
            self._check_open(topic)
            link = next((one for one in self._links if len(one.topics) < one.topics_max), None) or self._new_link()
            self._held[topic] = link.add(topic)

    def unwatch(self, topic: str) -> None:
        """Let go of `topic`; what is not watched is ignored."""
        held = self._held.pop(topic, None)
        if held is not None:
            held.fail(ReplicaClosed(topic, 0, "unwatched"))
            held.link.remove(topic)

    async def wait_for(self, topic: str, version: int = 0, *, timeout_s: float = WAIT_S) -> Snapshot:
        """Return the snapshot once the gateway has confirmed one of at least `version`; starts watching.

        Raises:
            NotCurrent: not within `timeout_s`.
            TopicRefused: the token does not open the topic.
            ReplicaClosed: there is no connection any more.
        """
        self.watch(topic)
        held = self._held[topic]
        self._check_open(topic)
        if held.snapshot is not None and held.is_fresh and held.snapshot.version >= version:
            return held.snapshot
        if held.refused:
            if time.monotonic() - held.refused_at < REFUSED_FOR_S:
                raise TopicRefused(topic, held.refused)
            held.link.ask_again(held)
        future: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        waiter = (version, future)
        held.waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            found = held.snapshot
            reason = "unknown" if found is None else "behind" if found.version < version else "stale"
            raise NotCurrent(topic, reason, found.version if found is not None else 0) from None
        finally:
            if waiter in held.waiters:
                held.waiters.remove(waiter)

    async def ensure(
        self,
        topic: str,
        feature: str,
        *,
        min_version: int = 0,
        policy: Policy = Policy.FAIL_CLOSED,
        timeout_s: float = WAIT_S,
    ) -> Snapshot | None:
        """Return what `require` does, after waiting until what is held is current, or for `timeout_s`.

        Raises:
            FeatureDenied: the state does not have the feature.
            NotCurrent: it did not become current, and the policy does not let that pass.
            TopicRefused: the token does not open the topic.
        """
        with contextlib.suppress(NotCurrent, ReplicaClosed):
            await self.wait_for(topic, min_version, timeout_s=timeout_s)
        return self.require(topic, feature, min_version=min_version, policy=policy)

    # Life.

    async def open(self) -> None:
        """Start connecting, and return at once: reading before the first answer is reading nothing."""
        if self._runner is None and not self._is_closed:
            ready = asyncio.Event()
            self._runner = asyncio.create_task(self._run(ready), name="planwire replica")
            await ready.wait()

    async def aclose(self) -> None:
        """Close every connection. What is held may still be read, as stale."""
        self._is_closed = True
        if self._runner is not None:
            self._stop.set()
            await self._runner
            self._runner = None
        for held in self._held.values():
            held.confirmed = False
            held.fail(ReplicaClosed(held.topic, 0, ""))
        self._tell()  # now: the loop may have no further turn

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _run(self, ready: asyncio.Event) -> None:
        """Own every link's task until told to stop."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for topic in self._wanted:
                    self.watch(topic)
                if not self._links:
                    self._new_link()
                ready.set()
                await self._stop.wait()
                self._group = None
                for task in self._tasks:
                    task.cancel()
        finally:
            self._group, self._is_closed = None, True
            ready.set()

    def _new_link(self) -> Link:
        assert self._group is not None, "checked by watch"
        link = Link(self._url, self._token, self._change, self._looked, self._topics_per_socket)
        self._links.append(link)
        self._tasks.append(self._group.create_task(link.run(), name=f"planwire link {len(self._links)}"))
        return link

    def _check_open(self, topic: str) -> None:
        for link in self._links:
            if link.closed is not None:
                raise ReplicaClosed(topic, link.closed.code, link.closed.reason)
        if self._is_closed:
            raise ReplicaClosed(topic, 0, "")
        if self._group is None:
            raise ReplicaError(topic, "the replica is not open: use it as a context manager, or await open()")

    def _change(self, snapshot: Snapshot, before: Snapshot | None) -> None:
        if self._on_change is not None:
            self._on_change(snapshot, before)

    def _looked(self) -> None:
        """Tell of a changed status soon: once for all that changes in this turn of the event loop."""
        if not self._is_telling:
            self._is_telling = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        status = self.status
        self._was_fresh = self._was_fresh or status is Status.FRESH
        if status is not self._told:
            self._told = status
            if self._on_status is not None:
                self._on_status(status)
