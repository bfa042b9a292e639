"""What a socket that does not drain must still be sent: one entry per topic, never a queue. Pure.

An entry holds no frame. The frame is looked up when the entry is taken, so it is the newest there is at that moment,
and a hundred versions published meanwhile cost one entry.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class PendingTopics(Generic[T]):
    """Topics in the order in which each was first noted. There are at most as many as the socket has subscriptions."""

    __slots__ = ("_topics",)

    def __init__(self) -> None:
        self._topics: dict[T, None] = {}

    def __len__(self) -> int:
        return len(self._topics)

    def offer(self, topic: T) -> bool:
        """Note that `topic` has something newer; return whether that replaces something not yet taken."""
        if topic in self._topics:
            return True
        self._topics[topic] = None
        return False

    def discard(self, topic: T) -> None:
        """Remove `topic`, if it is there."""
        self._topics.pop(topic, None)

    def take(self) -> T | None:
        """Remove and return the topic that has waited longest; None when nothing waits."""
        for topic in self._topics:
            del self._topics[topic]
            return topic
        return None
