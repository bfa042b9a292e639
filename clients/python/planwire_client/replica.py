"""A local copy of topics, kept current over WebSockets: reads are a dictionary's, and tell how far to rely on them.

For asyncio; thread.py has the same for threads. What a connection does is link.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, Self

from planwire_client.core.limits import TOPICS_PER_SOCKET
from planwire_client.errors import NotCurrent, ReplicaClosed, ReplicaError, TopicRefused
from planwire_client.link import REFUSED_FOR_S, Held, Link
from planwire_client.snapshot import Policy, Snapshot, decide
from planwire_client.tokens import TIMEOUT_S as TOKEN_TIMEOUT_S
from planwire_client.tokens import Token, TokenSource

WAIT_S = 5.0
"""How long waiting calls wait where they are not told."""

log = logging.getLogger("planwire_client")


class Status(StrEnum):
    """What a replica can vouch for: all of it (fresh), not all (stale), nothing yet (connecting), nothing more."""

    CONNECTING = "connecting"
    FRESH = "fresh"
    STALE = "stale"
    CLOSED = "closed"


Changed = Callable[[Snapshot, Snapshot | None], None]
StatusChanged = Callable[[Status, str], None] | Callable[[Status], None]


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
        on_status: StatusChanged | None = None,
        topics_per_socket: int = TOPICS_PER_SOCKET,
        token_timeout_s: float = TOKEN_TIMEOUT_S,
    ) -> None:
        """Keep `topics` of the gateway at `url` (http or https).

        Args:
            token: a token, or a function that returns one. An async function is awaited in the event loop; any other
                runs in a thread, up to four calls at once. It is asked again before the token ends, when the gateway
                refuses it, and before a topic's refusal is believed. Where it fails it is asked again later.
            on_change: called in the event loop with each new snapshot and the one before, None at first; must not
                block.
            on_status: called in the event loop with `status` and `cause` when one of them changes. One that takes a
                single argument is given the status. Silence is noticed without it.
            token_timeout_s: how long one call of the token function may take.

        Raises:
            TypeError: `token` is neither a string nor a function.
        """
        self._url = url
        self._tokens = TokenSource(token, token_timeout_s)
        self._on_change = on_change
        self._on_status = _with_cause(on_status)
        self._topics_per_socket = topics_per_socket
        self._wanted = list(dict.fromkeys(topics))
        self._held: dict[str, Held] = {}
        self._links: list[Link] = []
        self._group: asyncio.TaskGroup | None = None
        self._runner: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._told = (Status.CONNECTING, "")
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

    @property
    def cause(self) -> str:
        """What went wrong last with a connection and is not over, for people; empty while nothing is.

        A replica may have one and be fresh: for example while the token function fails and the old token still holds.
        """
        return next((link.cause for link in list(self._links) if link.cause), "")

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
            await asyncio.wait({self._runner})
            self._runner = None
        self._let_go()  # now: the loop may have no further turn

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
            self._let_go()

    def _let_go(self) -> None:
        """Answer all that wait: nothing more comes."""
        for held in self._held.values():
            held.confirmed = False
            held.fail(ReplicaClosed(held.topic, 0, ""))
        self._tell()

    def _new_link(self) -> Link:
        assert self._group is not None, "checked by watch"
        link = Link(self._url, self._tokens, self._change, self._looked, self._topics_per_socket)
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
        """Tell of a changed status or cause soon: once for all that changes in this turn of the event loop."""
        if not self._is_telling:
            self._is_telling = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        status, cause = self.status, self.cause
        self._was_fresh = self._was_fresh or status is Status.FRESH
        if (status, cause) != self._told:
            self._told = status, cause
            try:
                self._on_status(status, cause)
            except Exception:
                log.exception("planwire: on_status failed")


def _with_cause(on_status: StatusChanged | None) -> Callable[[Status, str], object]:
    """Return `on_status` as a function of status and cause."""
    report: Any = on_status
    if report is None:
        return lambda status, cause: None
    try:
        inspect.signature(report).bind(Status.CONNECTING, "")
    except (TypeError, ValueError):  # it takes the status alone, or does not tell
        return lambda status, cause: report(status)
    return report  # type: ignore[no-any-return]
