"""One socket to a gateway that keeps up to 64 topics current, and comes back whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from planwire_client import __version__
from planwire_client.core.fields import FrameError
from planwire_client.core.frames import CONNECT_PATH, SUBPROTOCOL, CloseCode, Hello
from planwire_client.core.headers import retry_after_s
from planwire_client.core.limits import TOPICS_PER_SOCKET
from planwire_client.errors import ReplicaClosed
from planwire_client.replica.incoming import OPEN_TIMEOUT_S, Incoming
from planwire_client.replica.outgoing import Outgoing, send
from planwire_client.replica.snapshot import Snapshot
from planwire_client.replica.tokens import TokenError, TokenKeeper, TokenSource
from planwire_client.replica.topic_state import Freshness, TopicState

T = TypeVar("T")

CLIENT = f"planwire-python/{__version__}"
CLOSE_TIMEOUT_S = 1.0
FRAME_MAX_BYTES = 4_194_304

RECONNECT_MIN_S, RECONNECT_MAX_S = 0.5, 30.0
"""Until a welcome says otherwise."""

STEADY_S = 5.0
"""How long a connection must have lasted, from its welcome, for the next pause to start small again."""

FINAL_FROM, FINAL_TO = 4500, 5000
"""Close codes after which coming back would change nothing."""

HANDSHAKE_FINAL = frozenset((400, 403, 404, 405, 426))
"""Statuses of a refused handshake after which coming back would change nothing."""

CAUSE_CHARS_MAX = 300

log = logging.getLogger("planwire_client")


class ConnectionEnded(Exception):
    """This connection has ended, and the next one may succeed.

    Attributes:
        pause_s: the pause before it, where the gateway said one.
        needs_token: whether it needs a new token.
        error: what failed, where the gateway did not say it.
    """

    def __init__(
        self, why: str, pause_s: float | None = None, *, needs_token: bool = False, error: Exception | None = None
    ) -> None:
        super().__init__(why)
        self.pause_s = pause_s
        self.needs_token = needs_token
        self.error = error


def _log_lost(ended: ConnectionEnded, pause_s: float) -> None:
    log.info("planwire: connection lost (%s), coming back in %.1f s", ended, pause_s)


class Connection:
    """One socket after another. `run` owns it; the other methods are called in the same event loop.

    Attributes:
        topics: what is kept current, by topic.
        freshness: until when the gateway's word counts.
        closed: None while it goes on, else why it has ended for good.
        cause: what went wrong last and is not over, at most CAUSE_CHARS_MAX characters; empty where nothing is.
    """

    def __init__(
        self,
        url: str,
        tokens: TokenSource,
        changed: Callable[[Snapshot, Snapshot | None], None],
        looked: Callable[[], None],
        topics_max: int = TOPICS_PER_SOCKET,
        lost: Callable[[ConnectionEnded, float], None] = _log_lost,
    ) -> None:
        """Connect to the gateway at `url`, http or https.

        Args:
            url: the gateway's.
            tokens: where tokens come from.
            changed: called with each new snapshot and the one before.
            looked: called when freshness or `cause` may have changed.
            topics_max: how many topics the gateway takes on one socket.
            lost: called when a connection has ended, with why, and the seconds before the next one.
        """
        self.topics: dict[str, TopicState] = {}
        self.freshness = Freshness()
        self.closed: ReplicaClosed | None = None
        self.cause = ""
        self._url = "ws" + url.rstrip("/").removeprefix("http") + CONNECT_PATH
        self._topics_max = topics_max
        self._looked = looked
        self._report_lost = lost
        self._outgoing = Outgoing(self.topics)
        self._keeper = TokenKeeper(tokens, self._granted, self._report)
        self._incoming = Incoming(
            self.topics, self.freshness, self._outgoing, self._keeper, changed, looked, self._report
        )

    @property
    def has_room(self) -> bool:
        """Whether it can keep another topic."""
        return len(self.topics) < self._topics_max

    def add(self, topic: str) -> TopicState:
        """Return the state of a topic that is kept current from now on."""
        state = self.topics[topic] = TopicState(topic, self.freshness)
        self._outgoing.subscribe(topic)
        return state

    def remove(self, topic: str) -> None:
        """Forget the topic."""
        self.topics.pop(topic).doubt()
        self._incoming.forget(topic)
        self._keeper.forget(topic)
        self._outgoing.unsubscribe(topic)

    def ask_again(self, topic: str) -> None:
        """Ask for a refused topic once more, with a new token if it is refused again."""
        self.topics[topic].ask_anew(with_new_token=False)
        self._outgoing.subscribe(topic)

    def _granted(self, topics: set[str]) -> None:
        for topic in topics & self.topics.keys():
            self.topics[topic].ask_anew(with_new_token=True)
            self._outgoing.subscribe(topic)

    async def run(self) -> None:
        """Stay connected until cancelled, or until the gateway ends it for good.

        Then `closed` tells why, and everything that waits is answered with it.
        """
        failures = 0
        while self.closed is None:
            ended = await self._attempt()
            lasted_s = time.monotonic() - self._incoming.opened_at
            self._lost(str(self.closed if ended is None else ended))
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # On CPython 3.11 a task group drops a cancel that comes while it ends for an error of its own.
                raise asyncio.CancelledError
            if ended is None:
                break
            failures = 0 if lasted_s > STEADY_S else failures + 1
            pause_s = self._pause_s(failures) if ended.pause_s is None else ended.pause_s
            if ended.needs_token:
                self._keeper.drop()
            self._report_lost(ended, pause_s)
            await asyncio.sleep(pause_s)
        assert self.closed is not None, "it ended for a reason"
        log.error("planwire: %s", self.closed)
        for state in self.topics.values():
            state.fail(self.closed)

    def _pause_s(self, failures: int) -> float:
        bounds = self._incoming.reconnect
        least_s, most_s = (
            (RECONNECT_MIN_S, RECONNECT_MAX_S) if bounds is None else (bounds.min_ms / 1000, bounds.max_ms / 1000)
        )
        return random.uniform(0, min(most_s, least_s * 2.0 ** min(failures, 20)))  # noqa: S311 - jitter

    async def _attempt(self) -> ConnectionEnded | None:
        """Return why one connection ended, or None where the gateway ended it for good.

        This is the top of a connection: an error that nobody foresaw costs the connection, and never the replica.
        """
        try:
            return await uncancelled(self._connect_once)
        except Exception as error:
            log.exception("planwire: a connection failed in a way that was not foreseen")
            return ConnectionEnded(f"not foreseen: {_text_of(error)}")

    def _report(self, cause: str) -> None:
        """Say what is wrong, or that nothing is."""
        self.cause = cause[:CAUSE_CHARS_MAX]
        self._looked()

    async def _connect_once(self) -> ConnectionEnded | None:
        """Run one connection. Return the reason it ended, or None if reconnecting is pointless."""
        try:
            token = await self._keeper.current()
            async with connect(
                self._url,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                # The gateway pings with every heartbeat, and its silence is noticed.
                ping_interval=None,
                max_size=FRAME_MAX_BYTES,
                user_agent_header=CLIENT,
            ) as socket:
                try:
                    return await self._talk(socket, token)
                except asyncio.CancelledError:
                    # Leaving in order: the gateway need not take it for a failure.
                    await self._outgoing.flush(socket, CLOSE_TIMEOUT_S)
                    await socket.close()
                    raise
        except TokenError as error:
            return ConnectionEnded(f"no token: {error}")
        except InvalidStatus as error:
            return self._refused(error)
        except InvalidURI as error:
            self.closed = ReplicaClosed("", 0, str(error))
            return None
        except (InvalidHandshake, OSError, TimeoutError) as error:
            return ConnectionEnded(f"{type(error).__name__}: {error}", error=error)

    def _refused(self, error: InvalidStatus) -> ConnectionEnded | None:
        status = error.response.status_code
        if status in HANDSHAKE_FINAL:
            self.closed = ReplicaClosed("", status, (error.response.body or b"").decode(errors="replace")[:200])
            return None
        wait_s = retry_after_s(error.response.headers.get("Retry-After"), time.time())
        if wait_s is None:
            return ConnectionEnded(f"status {status}")
        return ConnectionEnded(f"status {status}", wait_s * random.uniform(1, 2))  # noqa: S311 - jitter

    async def _talk(self, socket: ClientConnection, token: str) -> ConnectionEnded | None:
        self._outgoing.begin()
        self._keeper.begin()
        ended: ConnectionEnded | None = None
        try:
            versions = {topic: state.version for topic, state in self.topics.items()}
            await send(socket, Hello(token, versions, CLIENT))
            async with asyncio.TaskGroup() as group:
                loops = (self._outgoing.run, self._keeper.run)
                helpers = [group.create_task(uncancelled(loop, socket)) for loop in loops]
                ended = await self._listen(socket)
                for helper in helpers:
                    helper.cancel()
        except* ConnectionClosed as closed:
            # All of them are of the same close.
            found = closed.exceptions[0]
            assert isinstance(found, ConnectionClosed), "the group holds nothing else"
            ended = self._ended(found)
        return ended

    async def _listen(self, socket: ClientConnection) -> ConnectionEnded:
        """Take frames until it is over."""
        self._incoming.begin()
        while True:
            try:
                async with asyncio.timeout_at(self._incoming.deadline):
                    data = await socket.recv()
            except TimeoutError:
                # Nobody is there to shake hands with.
                socket.transport.abort()
                return ConnectionEnded("silence")
            try:
                pause_s = self._incoming.take(data)
            except FrameError as error:
                return ConnectionEnded(f"a frame that makes no sense: {error!r}")
            if pause_s is not None:
                return ConnectionEnded("the gateway is going away", pause_s)

    def _ended(self, closed: ConnectionClosed) -> ConnectionEnded | None:
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else (1006, "")
        if code == CloseCode.TOKEN and not self._keeper.is_fixed:
            return ConnectionEnded(f"{code} {reason}", needs_token=True)
        if code == CloseCode.TOKEN or FINAL_FROM <= code < FINAL_TO:
            self.closed = ReplicaClosed("", code, reason)
            return None
        return ConnectionEnded(f"{code} {reason}".rstrip())

    def _lost(self, why: str) -> None:
        self._report(why)
        self._outgoing.close()
        self._keeper.close()
        self._incoming.end()


def _text_of(error: BaseException) -> str:
    """Return the error's class and text; of a group, the first one's."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def uncancelled(work: Callable[..., Coroutine[Any, Any, T]], *given: object) -> T:
    """Return the result of `work`.

    Raises:
        RuntimeError: `work` raised a CancelledError that nobody asked for; as such it would end a task unseen.
    """
    try:
        return await work(*given)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("cancelled from inside") from error
