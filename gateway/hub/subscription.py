"""One socket's subscription to one topic, and the interface of a socket that the hub uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.hub.topic import LiveTopic

UNKNOWN = -1
"""`Subscription.sent` before anything was sent."""

AHEAD = -2
"""`Subscription.sent` of a browser with a newer version than is known here, until the store was read."""


class Socket(Protocol):
    """The parts of a socket that the hub uses.

    Attributes:
        pending: topics with a newer version for a socket that does not drain, the longest waiting first; None while it
            drains. The frame is looked up when the socket drains, so a hundred versions published meanwhile cost one
            entry.
        deflate: whether its frames may be compressed.
        opened_at: when its session was opened, in seconds since 1970.
    """

    pending: dict[Subscription, None] | None
    deflate: bool
    opened_at: float

    @property
    def direct_fd(self) -> int:
        """The file descriptor while frames may be written directly to it, else -1."""

    def write(self, data: bytes) -> None:
        """Send one WebSocket frame."""

    def end(self, topic: str, reason: str) -> None:
        """End the subscription to the topic, and send `gone`."""

    def write_remainder(self, data: bytes, sent: int) -> None:
        """Send the rest of a frame after `sent` bytes were written to the descriptor; 0 also if that failed."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One socket's subscription to one topic. Only `gateway.hub` sets its attributes.

    Attributes:
        index: its position in the topic's list.
        client_version: the version that the browser held when it subscribed; 0: none.
        sent: the newest version that was sent to the browser or that it holds; else UNKNOWN or AHEAD.
        acked, nacked: the newest versions that it acknowledged or rejected; 0: none.
    """

    socket: Socket
    live: LiveTopic
    client_version: int
    index: int
    sent: int = UNKNOWN
    acked: int = 0
    nacked: int = 0
