"""The token of one connection: fetched before it is needed, exchanged in band before it ends."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection

from planwire_client.core.frames import Token
from planwire_client.replica.tasks import send, woken
from planwire_client.replica.tokens import TokenError, TokenSource

REFRESH_SHARE = 0.8
"""At which share of a token's remaining life it is exchanged, with jitter below."""

REFRESH_RETRY_S = 5.0

log = logging.getLogger("planwire_client")


class TokenKeeper:
    """A connection's token.

    Attributes:
        is_fixed: the token is a string: asking again gives the same.
    """

    def __init__(self, tokens: TokenSource, granted: Callable[[set[str]], None], report: Callable[[str], None]) -> None:
        """`granted`: called with the topics that a new token was sent for; `report`: with why there is none, or ""."""
        self.is_fixed = tokens.is_fixed
        self._tokens = tokens
        self._granted = granted
        self._report = report
        self._bearer = ""
        self._is_open = False
        self._wake = asyncio.Event()
        self._refresh_at = float("inf")
        self._refused: set[str] = set()

    async def current(self) -> str:
        """Return the token to connect with.

        Raises:
            TokenError: there is none now; it is asked for again after a pause.
        """
        if not self._bearer:
            self._bearer = await self._fetch()
        return self._bearer

    def drop(self) -> None:
        """Forget the token, which the gateway has refused."""
        self._bearer = ""

    def begin(self) -> None:
        """Forget what the last socket refused."""
        self._refused.clear()

    def open(self, expires_at: float) -> None:
        """Keep the token from now on; it ends at `expires_at`, Unix seconds."""
        if not self.is_fixed:
            share = REFRESH_SHARE * random.uniform(0.9, 1)  # noqa: S311 - jitter
            self._refresh_at = time.monotonic() + max(0.0, expires_at - time.time()) * share
        self._is_open = True
        self._wake.set()

    def close(self) -> None:
        """Exchange nothing until the next welcome."""
        self._is_open = False
        self._refresh_at = float("inf")

    def renew_for(self, topic: str) -> None:
        """Have a new token fetched: the one in use may be from before the topic was granted."""
        self._refused.add(topic)
        self._wake.set()

    def forget(self, topic: str) -> None:
        """Fetch no token for the topic's sake."""
        self._refused.discard(topic)

    async def run(self, socket: ClientConnection) -> None:
        """Exchange the token when that is due. Without a new one the old one goes on, and it is tried again.

        Topics that the old one did not open are asked for afterwards: before, the old one would be judged.
        """
        retry_at = 0.0
        while True:
            due = 0.0 if self._refused else self._refresh_at
            due = max(due, retry_at) if self._is_open else float("inf")
            if time.monotonic() < due:
                await woken(self._wake, due)
                continue
            # Until the gateway takes the new token, and says when that one ends.
            self._refresh_at = time.monotonic() + REFRESH_RETRY_S
            waiting, self._refused = self._refused, set()
            try:
                self._bearer = await self._fetch()
            except TokenError as error:
                self._refused |= waiting
                retry_at = time.monotonic() + REFRESH_RETRY_S
                self._report(f"no token: {error}")
                continue
            retry_at = 0.0
            await send(socket, Token(self._bearer))
            self._report("")
            self._granted(waiting)

    async def _fetch(self) -> str:
        try:
            return await self._tokens.fetch()
        except TokenError as error:
            # What is held goes on being served, as stale.
            log.warning("planwire: %s", error, exc_info=error.__cause__)
            raise
