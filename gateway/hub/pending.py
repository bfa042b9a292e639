"""What a slow socket still has to be sent: one slot per topic, never a queue. Pure.

A slot holds no frame. The frame is looked up when the slot is taken, so it is the newest there is at that moment,
and a hundred versions published meanwhile have cost one slot.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class PendingTopics(Generic[T]):
    """Latest-wins slots in order of first offer. Its size is bounded by the number of topics on the socket."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: dict[T, None] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def offer(self, slot: T) -> bool:
        """Mark `slot` as having something newer; return whether that replaced something not yet taken."""
        if slot in self._slots:
            return True
        self._slots[slot] = None
        return False

    def discard(self, slot: T) -> None:
        """Forget `slot`, if it is there."""
        self._slots.pop(slot, None)

    def take(self) -> T | None:
        """Return and clear the slot that has waited longest, or None when nothing waits."""
        for slot in self._slots:
            del self._slots[slot]
            return slot
        return None
