"""What a developer does to one socket to see it recover: drop it, freeze it, delay it. In development only.

A frozen socket is written nothing: like one that does not drain, it holds one slot per topic, and is sent the newest
when it thaws. The time is bounded, and ends by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.ws.connection import SessionSocket

SECONDS_MAX = 60
DELAY_MIN_MS, DELAY_MAX_MS = 50, 5000


class FaultInjection:
    """The sockets that are held."""

    def __init__(self, later: Callable[[float, Callable[[], None]], object] | None = None) -> None:
        self._until: dict[SessionSocket, float] = {}
        self._later = later or (lambda after_s, call: asyncio.get_running_loop().call_later(after_s, call))

    def is_held(self, socket: SessionSocket) -> bool:
        """Whether nothing, or only now and then something, is written to it."""
        return socket in self._until

    def drop(self, socket: SessionSocket) -> None:
        """End its connection without a word."""
        socket.abort()

    def freeze(self, socket: SessionSocket, seconds: float) -> None:
        """Write nothing to it for `seconds`."""
        self.delay(socket, seconds, seconds)

    def delay(self, socket: SessionSocket, seconds: float, delay_s: float) -> None:
        """For `seconds`, let it have what is new every `delay_s` only."""
        is_new = socket not in self._until
        self._until[socket] = time.monotonic() + seconds
        socket.hold_back()
        if is_new:
            self._later(delay_s, lambda: self._thaw(socket, delay_s))

    def _thaw(self, socket: SessionSocket, delay_s: float) -> None:
        left_s = self._until[socket] - time.monotonic()
        if socket.transport is None or socket.transport.is_closing():
            del self._until[socket]
            return
        if not socket.buffered_bytes():  # else it does not drain by itself, and its transport says when it does
            socket.resume_writing()
        if left_s > 0.001:
            socket.hold_back()
            self._later(min(delay_s, left_s), lambda: self._thaw(socket, delay_s))
        else:
            del self._until[socket]
