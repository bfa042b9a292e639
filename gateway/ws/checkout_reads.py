"""Answers the pages that wait for a checkout, once a worker has read it and it is in their topic's state."""

from __future__ import annotations

import asyncio

import structlog

from gateway.ws.expects import Expects
from sync.store.checkout_reads import applied_versions
from sync.store.models import StoreError
from sync.store.store import Store

POLL_S = 0.5
"""Interval at which the store is asked about the checkouts that pages wait for; it is not, while none does."""

log = structlog.get_logger()


class CheckoutReads:
    """Asks the store what workers have read. `run` is a task of the gateway."""

    def __init__(self, store: Store, expects: Expects) -> None:
        self._store = store
        self._expects = expects

    async def run(self) -> None:
        """Answer pages until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            if waiting := self._expects.checkouts():
                try:
                    found = await applied_versions(self._store, waiting)
                except StoreError as error:
                    log.warning("checkouts_unread", checkouts=len(waiting), error=str(error))
                    continue
                for (topic, checkout), version in found.items():
                    self._expects.applied(topic, checkout, version)
