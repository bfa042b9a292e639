"""Drops, freezes or delays one socket, so that a developer sees it recover. In development only.

Nothing is written to a frozen socket: like one that does not drain, it holds one slot per topic, and gets the newest
version when it thaws. The time is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.ws.session_socket import SessionSocket

SECONDS_MAX = 60
DELAY_MIN_MS, DELAY_MAX_MS = 50, 5000


class FaultInjection:
    """The sockets that are held back."""

    def __init__(self, later: Callable[[float, Callable[[], None]], object] | None = None) -> None:
        self._until: dict[SessionSocket, float] = {}
        self._later = later or (lambda after_s, call: asyncio.get_running_loop().call_later(after_s, call))

    def is_held_back(self, socket: SessionSocket) -> bool:
        """Return whether a socket is frozen or delayed."""
        return socket in self._until

    def drop(self, socket: SessionSocket) -> None:
        """Abort its connection."""
        socket.abort()

    def freeze(self, socket: SessionSocket, seconds: float) -> None:
        """Write nothing to a socket for `seconds`."""
        self.delay(socket, seconds, seconds)

    def delay(self, socket: SessionSocket, seconds: float, delay_s: float) -> None:
        """For `seconds`, write what is new only every `delay_s` seconds."""
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
        if not socket.buffered_bytes():  # otherwise the transport resumes writing once it drains
            socket.resume_writing()
        if left_s > 0.001:
            socket.hold_back()
            self._later(min(delay_s, left_s), lambda: self._thaw(socket, delay_s))
        else:
            del self._until[socket]
