"""What waits in the store for a worker, and how long the first of it has been due: for metrics. It claims nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from sync.billing.storage.environment import Environment
from sync.store.command_pipeline import CommandPipeline, Script
from sync.store.models import StoreError
from sync.store.store import Store

CACHE_S = 5.0
"""For how long the queues are not read again, however often they are asked for."""

_OVERDUE = Script.load("sync.store", "queue_stats")


class Backlog:
    """The queues of some environments as one process reads them: seldom, and as read last while the store is away.

    Attributes:
        waiting: (queue, environment, members, seconds that the first has been due) each. Queues: `inbox`, events that
            are worked on, due once their lease has ended; `parked`, events that wait for something, due since they
            were parked; `timers`, tenants whose state changes by time alone; `reconcile`, topics of all environments
            ("") that somebody wants compared.
    """

    def __init__(self, store: Store, environments: Iterable[Environment]) -> None:
        """Read from `store`."""
        self._store = store
        self._keys = [
            *((queue, known.name, key) for known in environments for queue, key in known.queues.items()),
            ("reconcile", "", store.keys.reconcile),
        ]
        self._read_at = -CACHE_S
        self.waiting: Sequence[tuple[str, str, int, float]] = ()

    async def refresh(self) -> None:
        """Read the queues, unless they were read within CACHE_S."""
        if time.monotonic() - self._read_at < CACHE_S:
            return
        batch = CommandPipeline(self._store)
        for _, _, key in self._keys:
            batch.script(_OVERDUE, (key,))
        try:
            replies = await batch.run()
        except StoreError:
            return
        self._read_at = time.monotonic()
        self.waiting = [
            (queue, environment, int(members), int(due_us) / 1e6)
            for (queue, environment, _), (members, due_us) in zip(self._keys, replies, strict=True)
        ]
