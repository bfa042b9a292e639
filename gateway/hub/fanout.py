"""How long one thing may keep the event loop: what is done to a whole crowd is done a chunk in each turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

CHUNK = 256
"""Sockets in one turn of the event loop: a write takes some 8 us, and a turn is to stay below 5 ms."""


def in_chunks(items: Sequence[T], do: Callable[[T], None]) -> None:
    """Do something to each of `items`, the first chunk at once; nobody may change the sequence meanwhile.

    What is true of an item now may be over when its turn comes: `do` looks again.
    """
    _go_on(items, do, 0)


def _go_on(items: Sequence[T], do: Callable[[T], None], start: int) -> None:
    for item in items[start : start + CHUNK]:
        do(item)
    if start + CHUNK < len(items):
        asyncio.get_running_loop().call_soon(_go_on, items, do, start + CHUNK)
