"""A connection to a gateway that keeps up to 64 topics current, and reconnects after every loss."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from planwire_client import __version__
from planwire_client.core.fields import FrameError
from planwire_client.core.frames import CONNECT_PATH, SUBPROTOCOL, CloseCode, Hello
from planwire_client.core.headers import retry_after_s
from planwire_client.errors import ReplicaClosed
from planwire_client.replica.outgoing import send
from planwire_client.replica.snapshot import Changed
from planwire_client.replica.subscriptions import OPEN_TIMEOUT_S, Subscriptions
from planwire_client.replica.tokens import TokenError, TokenSource

T = TypeVar("T")

CLIENT = f"planwire-python/{__version__}"
CLOSE_TIMEOUT_S = 1.0

STEADY_S = 5.0
"""Seconds that a connection must last after its welcome to reset the backoff."""

HANDSHAKE_FINAL = frozenset((400, 403, 404, 405, 426))
"""Statuses of a rejected handshake after which reconnecting is pointless."""

log = logging.getLogger("planwire_client")


class ConnectionEnded(NamedTuple):
    """The reason why a connection has ended, if the next one may succeed.

    Attributes:
        pause_s: the pause before the next connection, if the gateway named one.
        needs_token: whether the next connection needs a new token.
        error: the local error, if the gateway gave no reason.
    """

    why: str
    pause_s: float | None = None
    needs_token: bool = False
    error: Exception | None = None

    def __str__(self) -> str:
        return self.why


Ended = ConnectionEnded | ReplicaClosed
"""The reason why a connection has ended; `ReplicaClosed`: permanently."""


Lost = Callable[[ConnectionEnded, float], None]


class Connection(Subscriptions):
    """A connection: one socket at a time. `run` opens sockets; call the other methods in the same event loop.

    Attributes:
        closed: None while `run` continues, else why the connection has ended permanently.
    """

    def __init__(
        self, url: str, tokens: TokenSource, changed: Changed, looked: Callable[[], None], lost: Lost | None = None
    ) -> None:
        """Connect to the gateway at `url`, http or https.

        Args:
            tokens: the source of tokens.
            changed: called with each new snapshot and the previous one.
            looked: called when freshness or `cause` may have changed.
            lost: called when a connection has ended, with the reason and the seconds until the next one.
        """
        super().__init__(tokens, changed, looked)
        self.closed: ReplicaClosed | None = None
        self._url = "ws" + url.rstrip("/").removeprefix("http") + CONNECT_PATH
        self._lost = lost or (lambda ended, pause_s: None)

    async def run(self) -> None:
        """Stay connected until cancelled, or until the gateway ends the connection permanently.

        In the latter case `closed` is set to the reason, and all waiting calls raise it.
        """
        failures = 0
        while True:
            ended = await self._attempt()
            lasted_s = time.monotonic() - self._opened_at
            self._end(str(ended))
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # On CPython 3.11 a task group loses a cancellation that arrives while it ends because of an error.
                raise asyncio.CancelledError
            if isinstance(ended, ReplicaClosed):
                break
            failures = 0 if lasted_s > STEADY_S else failures + 1
            if ended.needs_token:
                self._keeper.drop()
            pause_s = ended.pause_s
            if pause_s is None:
                least_ms, most_ms = self._reconnect
                pause_s = random.uniform(0, min(most_ms, least_ms * 2.0 ** min(failures, 20)) / 1000)  # noqa: S311 - jitter
            log.info("planwire: connection lost (%s), coming back in %.1f s", ended, pause_s)
            self._lost(ended, pause_s)
            await asyncio.sleep(pause_s)
        self.closed = ended
        log.error("planwire: %s", ended)
        for state in self.topics.values():
            state.fail(ended)

    async def _attempt(self) -> Ended:
        """Run one connection; return the reason it ended.

        An unforeseen error ends only this connection, not the replica.
        """
        try:
            return await uncancelled(self._connect_once)
        except Exception as error:
            log.exception("planwire: a connection failed in a way that was not foreseen")
            found: BaseException = error
            while isinstance(found, BaseExceptionGroup):
                found = found.exceptions[0]
            return ConnectionEnded(f"not foreseen: {type(found).__name__}: {found}")

    async def _connect_once(self) -> Ended:
        """Run one connection. Return the reason it ended."""
        try:
            token = await self._keeper.current()
            async with connect(
                self._url,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                # The gateway pings with every heartbeat, and missed heartbeats are detected.
                ping_interval=None,
                max_size=4_194_304,
                user_agent_header=CLIENT,
            ) as socket:
                try:
                    return await self._talk(socket, token)
                except asyncio.CancelledError:
                    # A clean close, so that the gateway does not count a failure.
                    await self._outgoing.flush(socket, CLOSE_TIMEOUT_S)
                    await socket.close()
                    raise
        except TokenError as error:
            return ConnectionEnded(f"no token: {error}")
        except InvalidStatus as error:
            return self._rejected(error)
        except InvalidURI as error:
            return ReplicaClosed("", 0, str(error))
        except (InvalidHandshake, OSError, TimeoutError) as error:
            return ConnectionEnded(f"{type(error).__name__}: {error}", error=error)

    def _rejected(self, error: InvalidStatus) -> Ended:
        status = error.response.status_code
        if status in HANDSHAKE_FINAL:
            return ReplicaClosed("", status, (error.response.body or b"").decode(errors="replace")[:200])
        wait_s = retry_after_s(error.response.headers.get("Retry-After"), time.time())
        pause_s = None if wait_s is None else wait_s * random.uniform(1, 2)  # noqa: S311 - jitter
        return ConnectionEnded(f"status {status}", pause_s)

    async def _talk(self, socket: ClientConnection, token: str) -> Ended:
        self._begin()

        async def after_welcome(work: Callable[[ClientConnection], Coroutine[Any, Any, None]]) -> None:
            await self._welcomed.wait()
            await work(socket)

        try:
            versions = {topic: state.version for topic, state in self.topics.items()}
            await send(socket, Hello(token, versions, CLIENT))
            async with asyncio.TaskGroup() as group:
                works = (self._outgoing.run, self._keeper.run)
                helpers = [group.create_task(uncancelled(after_welcome, work)) for work in works]
                ended = await self._listen(socket)
                for helper in helpers:
                    helper.cancel()
        except* ConnectionClosed as closed:
            # All of them have the same close.
            found = closed.exceptions[0]
            assert isinstance(found, ConnectionClosed), "the group holds nothing else"
            ended = self._ended(found)
        return ended

    async def _listen(self, socket: ClientConnection) -> Ended:
        """Handle frames until the connection ends."""
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    data = await socket.recv()
            except TimeoutError:
                # The peer is silent: skip the closing handshake.
                socket.transport.abort()
                return ConnectionEnded("silence")
            try:
                pause_s = self.receive(data)
            except FrameError as error:
                return ConnectionEnded(f"a frame that makes no sense: {error!r}")
            if pause_s is not None:
                return ConnectionEnded("the gateway is going away", pause_s)

    def _ended(self, closed: ConnectionClosed) -> Ended:
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else (1006, "")
        if code == CloseCode.TOKEN and not self._keeper.is_fixed:
            return ConnectionEnded(f"{code} {reason}", needs_token=True)
        if code == CloseCode.TOKEN or 4500 <= code < 5000:  # reconnecting is pointless
            return ReplicaClosed("", code, reason)
        return ConnectionEnded(f"{code} {reason}".rstrip())


async def uncancelled(work: Callable[..., Coroutine[Any, Any, T]], *given: object) -> T:
    """Return the result of `work`.

    Raises:
        RuntimeError: `work` raised a CancelledError without a cancellation, which would end the task silently.
    """
    try:
        return await work(*given)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("cancelled from inside") from error
