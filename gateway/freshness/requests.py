"""What a gateway asks of others: comparisons with providers, checkouts, sources, and lost usage to be restored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import structlog

from gateway.freshness.usage_reads import UsageTopics
from gateway.metrics import Metrics
from sync.store.models import StoreError
from sync.store.store import Store

T = TypeVar("T")

log = structlog.get_logger()


class Requests:
    """Requests of one process, kept until they are sent."""

    def __init__(self, store: Store, metrics: Metrics, usage: UsageTopics | None) -> None:
        """Send them to the worker by the store; `usage` restores usage topics."""
        self._store = store
        self._metrics = metrics
        self._usage = usage
        self._reconciles: dict[str, int] = {}  # by topic: the newer version that a browser holds, or 0
        self._checkouts: dict[str, None] = {}
        self._unhydrated: dict[str, None] = {}
        self._lost_usage: dict[str, tuple[int, bytes]] = {}
        self._is_sending = False

    def reconcile(self, name: str, held: int) -> None:
        """Request a comparison of the topic with its provider. `held`: the newer version of a browser, or 0."""
        self._reconciles[name] = max(held, self._reconciles.get(name, 0))

    def checkout(self, name: str, checkout: str) -> None:
        """Request that a checkout of the topic is read from its provider."""
        self._checkouts[f"{name} {checkout}"] = None

    def hydrate(self, name: str) -> None:
        """Request that the source is asked about a topic without state; `send_unhydrated` sends it."""
        self._unhydrated[name] = None

    def restore_usage(self, name: str, version: int, state: bytes) -> None:
        """Request that a usage topic is restored. What was held first stays: later ones may follow the loss."""
        self._lost_usage.setdefault(name, (version, state))

    @property
    def are_waiting(self) -> bool:
        """Whether there are requests for `send`."""
        return bool(self._reconciles or self._checkouts or self._lost_usage)

    def start(self) -> bool:
        """Return whether `send` should be run now: there are requests, and it is not running."""
        if not self.are_waiting or self._is_sending:
            return False
        self._is_sending = True
        return True

    async def send(self) -> None:
        """Send all but the topics without state, after `start`."""
        if self._reconciles:
            await self._send(self._reconciles, self._store.want_reconcile, "reconcile_unasked")
        if self._checkouts:
            want = partial(self._store.request, self._store.keys.checkouts)
            await self._send(self._checkouts, want, "checkout_unasked")
        if self._lost_usage and self._usage is not None:
            self._metrics.restored += await self._send(self._lost_usage, self._usage.restore, "usage_not_restored")
        self._is_sending = False

    async def send_unhydrated(self) -> None:
        """Request that the worker asks the source about topics that have no state."""
        if self._unhydrated:
            want = partial(self._store.request, self._store.keys.hydrate)
            self._metrics.unhydrated += await self._send(self._unhydrated, want, "hydration_unasked")

    async def _send(self, topics: dict[str, T], want: Callable[[dict[str, T]], Awaitable[object]], event: str) -> int:
        """Send `topics`, and return their number. If that fails, keep them for the next round.

        They must be kept: a loss is noticed only once, and a topic without state is not read again by itself.
        """
        taken = dict(topics)
        topics.clear()
        try:
            await want(taken)
        except StoreError as error:
            log.warning(event, topics=len(taken), error=str(error))
            topics |= taken
            return 0
        return len(taken)
