"""One socket's subscription to one topic, and what the hub needs of a socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.hub.topic import LiveTopic

UNKNOWN = -1
"""`Subscription.sent` before the browser was sent anything."""

AHEAD = -2
"""`Subscription.sent` of a browser that holds something newer than is known here, until the store was read."""


class Socket(Protocol):
    """The parts of a socket that the hub uses.

    Attributes:
        pending: what must still be sent to a socket that does not drain; None while it drains. One entry for each topic
            with something newer, the one that has waited longest first. An entry holds no frame: the frame is looked up
            when the socket drains, so a hundred versions published meanwhile cost one entry.
        deflate: whether its frames may be compressed.
        opened_at: when its session was opened, in seconds since 1970.
    """

    pending: dict[Subscription, None] | None
    deflate: bool
    opened_at: float

    @property
    def direct_fd(self) -> int:
        """The descriptor while a frame may be written straight to it, else -1."""

    def write(self, data: bytes) -> None:
        """Send one WebSocket frame."""

    def end(self, topic: str, reason: str) -> None:
        """Leave the topic, and send `gone`."""

    def write_remainder(self, data: bytes, sent: int) -> None:
        """Send the rest of a frame of which the descriptor took `sent` bytes; 0 also when the write failed."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One socket's subscription to one topic. Only `gateway.hub` sets its attributes.

    Attributes:
        index: its place in the topic's list.
        client_version: the version that the browser held when it subscribed; 0: none.
        sent: the newest version that the browser was sent or holds; else UNKNOWN or AHEAD.
        acked, nacked: the newest versions that it answered for; 0: none.
    """

    socket: Socket
    live: LiveTopic
    client_version: int
    index: int
    sent: int = UNKNOWN
    acked: int = 0
    nacked: int = 0
