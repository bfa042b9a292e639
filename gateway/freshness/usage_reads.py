"""Usage topics are brought up to date before they are read, and once more when a window of theirs ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from planwire_client.core.topic import tenant_of

TIMER_SLACK_S = 0.01
"""Added to one-shot timers, because event loops may fire a millisecond early."""


class UsageTopics(Protocol):
    """What a gateway needs of usage; see `sync.usage.service`."""

    async def run(self) -> None:
        """Announce what is due, until cancelled."""

    async def refresh(self, topics: Sequence[str]) -> Mapping[str, tuple[int, float]]:
        """Bring usage topics up to date; return their versions, and the seconds until time alone changes them."""

    async def restore(self, lost: Mapping[str, tuple[int, bytes]]) -> None:
        """Write back versions and states of usage topics that the store has lost."""


class UsageReads:
    """Brings the usage topics that this process shows up to date."""

    def __init__(self, usage: UsageTopics | None, within_s: float, read_again: Callable[[str], None]) -> None:
        """Bring topics up to date by `usage`.

        Args:
            usage: brings them up to date; None: they are read as they are.
            within_s: seconds until all topics are read in any case.
            read_again: is called with a topic when a window of it has ended before that.
        """
        self._usage = usage
        self._within_s = within_s
        self._read_again = read_again
        self._rolling: set[str] = set()  # topics that are read once a window of theirs ends

    async def refresh(self, names: Sequence[str]) -> dict[str, int]:
        """Bring the usage topics among `names` up to date, and return their versions by name.

        A window that ends before the next sweep is shown in time: its topic is read once more then.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        usage = [name for name in names if tenant_of(name)] if self._usage is not None else []
        if not usage or self._usage is None:
            return {}
        found = await self._usage.refresh(usage)
        for name, (_, changes_in_s) in found.items():
            if 0 < changes_in_s <= self._within_s and name not in self._rolling:
                self._rolling.add(name)
                asyncio.get_running_loop().call_later(changes_in_s + TIMER_SLACK_S, self._rolled, name)
        return {name: version for name, (version, _) in found.items()}

    def _rolled(self, name: str) -> None:
        self._rolling.discard(name)
        self._read_again(name)
