"""Tokens from the application: a string, or a function that may block, fail or never return.

A plain function runs in a thread, an async function in a task. A call that exceeds its time is abandoned, but counts
towards CALLS_MAX until it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable

from websockets.asyncio.client import ClientConnection

from planwire_client.core import frames
from planwire_client.replica.outgoing import send, woken

Token = str | Callable[[], str | Awaitable[str]]

CALLS_MAX = 4
"""Maximum concurrent calls of one token function, abandoned calls included."""

TIMEOUT_S = 10.0
"""Default timeout of a call, in seconds."""

TOKEN_CHARS_MAX = 16_384
"""Maximum length of a token. A longer text is something else (an identity provider's page, say), and a gateway would
close the connection permanently because of it."""

REFRESH_SHARE = 0.8
"""Share of a token's remaining life after which it is exchanged, with jitter downwards."""

REFRESH_RETRY_S = 5.0

log = logging.getLogger("planwire_client")

_Outcome = tuple[object, BaseException | None]
"""The result of a call, or its exception."""


class TokenError(Exception):
    """There is no token now, but a later call may return one. The text is the reason."""


class TokenSource:
    """The tokens of one replica's connections. Belongs to one event loop.

    Attributes:
        is_fixed: the token is a string and never changes.
    """

    def __init__(self, token: Token, timeout_s: float = TIMEOUT_S) -> None:
        """Take tokens from `token`, a string or a function. `timeout_s`: the timeout of a call in seconds.

        Raises:
            TypeError: `token` is neither a string nor a function.
        """
        if not isinstance(token, str) and not callable(token):
            raise TypeError(f"token must be a string or a function that returns one, not {type(token).__name__}")
        self.is_fixed = isinstance(token, str)
        self._token = token
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(CALLS_MAX)
        self._tasks: set[asyncio.Future[_Outcome]] = set()

    async def fetch(self) -> str:
        """Return a token; a function is called for a new one.

        Raises:
            TokenError: the function failed, did not return in time, or returned something else.
        """
        if isinstance(self._token, str):
            return self._token
        try:
            given = await self._call(self._token)
            if not isinstance(given, str):
                raise TokenError(f"the token function returned {type(given).__name__}, not a string")
            if not given or len(given) > TOKEN_CHARS_MAX or not given.isascii():
                raise TokenError(f"the token function returned {len(given)} characters that are no token")
        except TokenError as error:
            # Snapshots can still be read, as stale.
            log.warning("planwire: %s", error, exc_info=error.__cause__)
            raise
        return given

    async def _call(self, function: Callable[[], object]) -> object:
        until = asyncio.get_running_loop().time() + self._timeout_s
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            return await self._finish(lambda: self._in_task(function), until)
        given = await self._finish(lambda: self._in_thread(function), until)
        return await self._finish(lambda: self._in_task(lambda: given), until) if inspect.isawaitable(given) else given

    async def _finish(self, start: Callable[[], asyncio.Future[_Outcome]], until: float) -> object:
        """Start a call and return its result. It counts towards CALLS_MAX until it ends."""
        try:
            async with asyncio.timeout_at(until):
                await self._free.acquire()
        except TimeoutError:
            raise TokenError(f"the token function has not returned from {CALLS_MAX} calls") from None
        call = start()
        try:
            await asyncio.wait({call}, timeout=max(0.0, until - asyncio.get_running_loop().time()))
        finally:
            is_late = not call.done()
            call.cancel()
        if is_late:
            raise TokenError(f"the token function did not return within {self._timeout_s:g} s")
        given, error = call.result()
        if error is not None:
            raise TokenError(f"the token function failed: {error!r}") from error
        return given

    def _in_task(self, function: Callable[[], object]) -> asyncio.Future[_Outcome]:
        async def call() -> _Outcome:
            try:
                given = function()
                return (await given if inspect.isawaitable(given) else given), None
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # also its own CancelledError: the connection was not cancelled
                return None, error

        def ended(task: asyncio.Future[_Outcome]) -> None:
            self._tasks.discard(task)
            self._free.release()

        task = asyncio.ensure_future(call())
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    def _in_thread(self, function: Callable[[], object]) -> asyncio.Future[_Outcome]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Outcome] = loop.create_future()

        def call() -> None:
            outcome: _Outcome
            try:
                outcome = function(), None
            except BaseException as error:  # the top of the thread
                outcome = None, error
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(ended, outcome)

        def ended(outcome: _Outcome) -> None:
            self._free.release()
            if not future.done():
                future.set_result(outcome)
            elif inspect.iscoroutine(outcome[0]):
                outcome[0].close()

        # Not an executor: at exit the process waits for its threads, and this thread may never return.
        thread = threading.Thread(
            target=contextvars.copy_context().run, args=(call,), name="planwire token", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            ended((None, error))
        return future


class TokenKeeper:
    """A connection's token.

    Attributes:
        is_fixed: the token is a string and never changes.
    """

    def __init__(self, tokens: TokenSource, granted: Callable[[set[str]], None], report: Callable[[str], None]) -> None:
        """`granted`: called with the topics for which a new token was sent. `report`: called with a problem, or ""."""
        self.is_fixed = tokens.is_fixed
        self._tokens = tokens
        self._granted = granted
        self._report = report
        self._bearer = ""
        self._wake = asyncio.Event()
        self._refresh_at = float("inf")
        self._refused: set[str] = set()

    async def current(self) -> str:
        """Return the token to connect with.

        Raises:
            TokenError: there is none now; the caller retries after a pause.
        """
        if not self._bearer:
            self._bearer = await self._tokens.fetch()
        return self._bearer

    def drop(self) -> None:
        """Drop the token, because the gateway has rejected it."""
        self._bearer = ""

    def begin(self) -> None:
        """Forget the topics that the last socket refused."""
        self._refused.clear()

    def expires(self, at: float) -> None:
        """Schedule the exchange of the token, unless it is fixed. `at`: its expiry, in Unix seconds."""
        if not self.is_fixed:
            share = REFRESH_SHARE * random.uniform(0.9, 1)  # noqa: S311 - jitter
            self._refresh_at = time.monotonic() + max(0.0, at - time.time()) * share
        self._wake.set()

    def renew_for(self, topic: str) -> None:
        """Fetch a new token soon, because the current one may be older than the grant of the topic."""
        self._refused.add(topic)
        self._wake.set()

    async def run(self, socket: ClientConnection) -> None:
        """Exchange the token when due. If there is no new token, keep the old one and retry.

        Topics that the old token did not grant are requested after the exchange, because the gateway checks the token
        that it has.
        """
        retry_at = 0.0
        while True:
            due = max(retry_at, 0.0 if self._refused else self._refresh_at)
            if time.monotonic() < due:
                await woken(self._wake, due)
                continue
            # Until the gateway accepts the new token and sends its expiry.
            self._refresh_at = time.monotonic() + REFRESH_RETRY_S
            waiting, self._refused = self._refused, set()
            try:
                self._bearer = await self._tokens.fetch()
            except TokenError as error:
                self._refused |= waiting
                retry_at = time.monotonic() + REFRESH_RETRY_S
                self._report(f"no token: {error}")
                continue
            retry_at = 0.0
            await send(socket, frames.Token(self._bearer))
            self._report("")
            self._granted(waiting)
