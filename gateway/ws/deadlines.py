"""Many deadlines with a resolution of one tick: hello, token expiry, expects, stalled sends. Pure.

A deadline is one entry of a set. A timer object per socket would need more memory than the socket's own state.
"""

from __future__ import annotations

import math
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Items by the tick at which they are due. `tick_s`: the resolution; an item is due up to one tick late."""

    def __init__(self, tick_s: float = 0.25) -> None:
        self._tick_s = tick_s
        self._buckets: dict[int, set[T]] = {}
        self._swept: int | None = None

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def add(self, at: float, item: T) -> int:
        """Make `item` due at `at` (seconds, any clock); return its bucket, for `discard`."""
        bucket = math.ceil(at / self._tick_s)
        if self._swept is not None and bucket <= self._swept:
            bucket = self._swept + 1
        self._buckets.setdefault(bucket, set()).add(item)
        return bucket

    def discard(self, bucket: int, item: T) -> None:
        """Remove `item` from `bucket`, if it is there."""
        items = self._buckets.get(bucket)
        if items is not None:
            items.discard(item)
            if not items:
                del self._buckets[bucket]

    def due(self, now: float) -> list[T]:
        """Remove and return every item due by `now`, earliest bucket first."""
        last = math.floor(now / self._tick_s)
        if self._swept is None or last > self._swept:
            self._swept = last
        found: list[T] = []
        for bucket in sorted(bucket for bucket in self._buckets if bucket <= last):
            found.extend(self._buckets.pop(bucket))
        return found
