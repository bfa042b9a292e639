"""A local copy of topics, kept current over WebSockets, for asyncio. thread.py has the version for threads."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, Self, TypedDict

from planwire_client.core.limits import TOPICS_PER_SOCKET
from planwire_client.core.topic import usage_topic
from planwire_client.errors import NotCurrent, ReplicaClosed, ReplicaError, TopicRefused
from planwire_client.replica.connection import Connection
from planwire_client.replica.snapshot import Changed, Policy, Snapshot
from planwire_client.replica.tokens import TIMEOUT_S as TOKEN_TIMEOUT_S, Token, TokenSource
from planwire_client.replica.topic_state import Reading, TopicState

WAIT_S = 5.0
"""Default timeout of waiting calls, in seconds."""

log = logging.getLogger("planwire_client")


class Status(StrEnum):
    """The status of a replica: all topics current (fresh), some not (stale), no answer yet (connecting), or closed."""

    CONNECTING = "connecting"
    FRESH = "fresh"
    STALE = "stale"
    CLOSED = "closed"


StatusChanged = Callable[[Status, str], None] | Callable[[Status], None]


class Options(TypedDict, total=False):
    """Optional arguments of a replica; see `Replica`."""

    on_change: Changed | None
    on_status: StatusChanged | None
    topics_per_socket: int
    token_timeout_s: float


class Replica(Reading):
    """A local copy of topics. An async context manager; belongs to one event loop.

    `get`, `is_fresh`, `require` and `status` never wait, and may be called from any thread. Up to 64 topics share one
    socket. A topic stays watched until `unwatch`.
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
        """Watch `topics` at the gateway `url` (http or https).

        Args:
            token: a token, or a function that returns one. An async function is awaited in the event loop; any other
                function runs in a thread, up to four calls at once. It is called again before the token expires, when
                the gateway rejects the token or a topic, and some time after a failure.
            on_change: called in the event loop with each new snapshot and the previous one (None at first). It must
                not block.
            on_status: called in the event loop with `status` and `cause` when one of them changes. A function with a
                single parameter gets only the status. `status` turns stale on silence even without this function.
            token_timeout_s: maximum seconds of one call of the token function.

        Raises:
            TypeError: `token` is neither a string nor a function.
        """
        self._url = url
        self._tokens = TokenSource(token, token_timeout_s)
        self._on_change = on_change or (lambda new, before: None)
        self._on_status = _with_cause(on_status)
        self._topics_per_socket = topics_per_socket
        self._wanted = list(dict.fromkeys(topics))
        self._states: dict[str, TopicState] = {}
        self._connections: list[Connection] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._reported = (Status.CONNECTING, "")
        self._is_reporting = False
        self._was_fresh = False
        self._is_closed = False

    @property
    def status(self) -> Status:
        """The current status of the replica."""
        connections, states = list(self._connections), list(self._states.values())
        if self._is_closed or any(one.closed is not None for one in connections):
            return Status.CLOSED
        now = time.monotonic()
        is_heard = bool(connections) and all(now < one.freshness.until for one in connections)
        if is_heard and all(one.confirmed or one.refused for one in states):
            return Status.FRESH
        return Status.STALE if self._was_fresh else Status.CONNECTING

    @property
    def cause(self) -> str:
        """The last problem of a connection that still persists, for people; empty: none.

        A fresh replica may have one, for example if the token function fails while the old token is still valid.
        """
        return next((one.cause for one in list(self._connections) if one.cause), "")

    # Watching and waiting.

    def watch(self, topic: str) -> None:
        """Keep `topic` current from now on. A second call does nothing.

        Raises:
            ReplicaClosed: all connections have ended.
        """
        if topic not in self._states:
            self._check_open(topic)
            with_room = (one for one in self._connections if len(one.topics) < self._topics_per_socket)
            connection = next(with_room, None) or self._new_connection()
            self._states[topic] = connection.add(topic)

    def watch_usage(self, tenant: str) -> None:
        """Keep what a tenant has used current from now on, and the entitlements that its limits are from.

        Args:
            tenant: the tenant's topic.

        Raises:
            ReplicaClosed: all connections have ended.
        """
        self.watch(tenant)
        self.watch(usage_topic(tenant))

    def unwatch(self, topic: str) -> None:
        """Stop watching `topic`. Does nothing if it is not watched."""
        state = self._states.pop(topic, None)
        if state is not None:
            state.fail(ReplicaClosed(topic, 0, "unwatched"))
            self._connection_of(topic).remove(topic)

    async def wait_for(self, topic: str, version: int = 0, *, timeout_s: float = WAIT_S) -> Snapshot:
        """Watch the topic, and return the snapshot once the gateway has confirmed one of at least `version`.

        Raises:
            NotCurrent: there was none within `timeout_s`.
            TopicRefused: the token does not open the topic.
            ReplicaClosed: all connections have ended.
        """
        self.watch(topic)
        state = self._states[topic]
        self._check_open(topic)
        if state.snapshot is not None and state.is_fresh and state.version >= version:
            return state.snapshot
        if state.is_refused_lately:
            raise TopicRefused(topic, state.refused)
        if state.refused:
            self._connection_of(topic).ask_again(topic)
        try:
            return await state.wait(version, timeout_s)
        except TimeoutError:
            reason = "unknown" if state.snapshot is None else "behind" if state.version < version else "stale"
            raise NotCurrent(topic, reason, state.version) from None

    async def ensure(
        self,
        topic: str,
        feature: str,
        *,
        min_version: int = 0,
        policy: Policy = Policy.FAIL_CLOSED,
        timeout_s: float = WAIT_S,
        app: str = "",
    ) -> Snapshot | None:
        """Do the same as `require`, after waiting up to `timeout_s` until the snapshot is current.

        Raises:
            FeatureDenied: the state does not have the feature.
            NotCurrent: it did not become current, and the policy does not let that pass.
            TopicRefused: the token does not open the topic.
        """
        with contextlib.suppress(NotCurrent, ReplicaClosed):
            await self.wait_for(topic, min_version, timeout_s=timeout_s)
        return self.require(topic, feature, min_version=min_version, policy=policy, app=app)

    # Opening and closing.

    async def open(self) -> None:
        """Start connecting, and return immediately. Until the first answer there are no snapshots."""
        if not self._tasks and not self._is_closed:
            self._new_connection()
            for topic in self._wanted:
                self.watch(topic)

    async def aclose(self) -> None:
        """Close every connection. Snapshots can still be read, as stale."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._let_go()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:  # for example a callback's SystemExit
            self._let_go()

    def _let_go(self) -> None:
        """End all waiting calls, because no more frames will come."""
        self._is_closed = True
        for state in self._states.values():
            state.doubt()
            state.fail(ReplicaClosed(state.topic, 0, ""))
        self._report()

    def _new_connection(self) -> Connection:
        connection = Connection(self._url, self._tokens, self._on_change, self._looked)
        self._connections.append(connection)
        task = asyncio.create_task(connection.run(), name="planwire connection")
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        return connection

    def _connection_of(self, topic: str) -> Connection:
        return next(one for one in self._connections if topic in one.topics)

    def _check_open(self, topic: str) -> None:
        for connection in self._connections:
            if connection.closed is not None:
                raise ReplicaClosed(topic, connection.closed.code, connection.closed.reason)
        if self._is_closed:
            raise ReplicaClosed(topic, 0, "")
        if not self._tasks:
            raise ReplicaError(topic, "the replica is not open: use it as a context manager, or await open()")

    def _looked(self) -> None:
        """Report a changed status or cause soon: once per turn of the event loop."""
        if not self._is_reporting:
            self._is_reporting = True
            asyncio.get_running_loop().call_soon(self._report)

    def _report(self) -> None:
        self._is_reporting = False
        status, cause = self.status, self.cause
        self._was_fresh = self._was_fresh or status is Status.FRESH
        if (status, cause) != self._reported:
            self._reported = status, cause
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
    except (TypeError, ValueError):  # it takes only the status, or its signature is unknown
        return lambda status, cause: report(status)
    return report  # type: ignore[no-any-return]
