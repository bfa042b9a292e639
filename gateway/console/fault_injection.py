"""Drops, freezes or delays one socket, so that a developer sees it recover. In development only.

Nothing is written to a frozen socket. It collects topics like a socket that does not drain, and is sent their newest
versions when it thaws. The time is limited.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from gateway.ws.session_socket import SessionSocket

SECONDS_MAX = 60
DELAY_MIN_MS, DELAY_MAX_MS = 50, 5000


class FaultInjection:
    """The sockets that are held back."""

    def __init__(self) -> None:
        self._until: dict[SessionSocket, float] = {}

    def is_held_back(self, socket: SessionSocket) -> bool:
        """Return whether a socket is frozen or delayed."""
        return socket in self._until

    def inject(self, socket: SessionSocket, about: Mapping[str, Any]) -> None:
        """Apply a control message to a socket; its members are `action`, `seconds` and `delay_ms`."""
        seconds = min(_whole(about.get("seconds")), SECONDS_MAX)
        match about.get("action"):
            case "drop":
                socket.abort()
            case "freeze":
                self._hold_back(socket, seconds, seconds)
            case "delay":
                self._hold_back(socket, seconds, max(DELAY_MIN_MS, _whole(about.get("delay_ms"))) / 1000)

    def _hold_back(self, socket: SessionSocket, seconds: float, delay_s: float) -> None:
        """For `seconds`, write to the socket only every `delay_s` seconds."""
        is_new = socket not in self._until
        self._until[socket] = time.monotonic() + seconds
        socket.hold_back()
        if is_new:
            asyncio.get_running_loop().call_later(delay_s, self._thaw, socket, delay_s)

    def _thaw(self, socket: SessionSocket, delay_s: float) -> None:
        left_s = self._until[socket] - time.monotonic()
        if socket.transport is None or socket.transport.is_closing():
            del self._until[socket]
            return
        if not socket.buffered_bytes():  # otherwise the transport resumes writing once it drains
            socket.resume_writing()
        if left_s > 0.001:
            socket.hold_back()
            asyncio.get_running_loop().call_later(min(delay_s, left_s), self._thaw, socket, delay_s)
        else:
            del self._until[socket]


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
