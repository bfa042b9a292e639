"""Keeps the revocations of one process in step with those that the store keeps and gateways announce."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog

from gateway.auth import revocation_store, revocations
from gateway.auth.revocations import Revocation
from gateway.auth.tokens import Auth
from sync.store.models import StoreError
from sync.store.store import Store

MARGIN_S = 60.0
"""Difference between gateways' clocks within which the timer finds another's revocation."""

RETRY_S = 0.2

ANNOUNCED_MAX = 1000
"""Announced revocations that are looked up one by one; of more, all that the store keeps are read."""

log = structlog.get_logger()


class RevocationSync:
    """Reads the store's revocations and puts them in force.

    All of them after each subscription of the control channel; the newer ones when one is announced, and on a timer,
    because an announcement can be lost.
    """

    def __init__(
        self,
        store: Store,
        auth: Auth,
        revoke: Callable[[Revocation], None],
        heard_foreign: Callable[[str], None],
        *,
        every_s: float,
        keep_s: float,
        limit: int,
    ) -> None:
        """Read nothing before `run`.

        Args:
            store: keeps the revocations.
            auth: remembers the tokens that an announced revocation has to cover.
            revoke: puts a revocation in force; a second call for the same one does nothing.
            heard_foreign: is called with the kind of an announced revocation that the store does not have.
            every_s: seconds between two reads by the timer.
            keep_s: seconds for which the store keeps a revocation.
            limit: number of revocations that are kept.
        """
        self._store = store
        self._auth = auth
        self._revoke = revoke
        self._heard_foreign = heard_foreign
        self._every_s = every_s
        self._keep_s = keep_s
        self._limit = limit
        self._announced: dict[Revocation, Revocation] = {}  # as announced, and as raised over tokens seen here
        self._must_read_all = False
        self._wanted = asyncio.Event()

    def read_all(self) -> None:
        """Read all revocations soon: what was announced until now may have been missed."""
        self._must_read_all = True
        self._wanted.set()

    def heard(self, message: Mapping[str, Any]) -> None:
        """Take an announced revocation. It is a hint: it counts if the store keeps it."""
        revocation = revocations.decode(message)
        if revocation is None:
            return
        if len(self._announced) < ANNOUNCED_MAX:
            self._announced[revocation] = self._auth.covering(revocation, time.time())
        else:
            self._must_read_all = True
        self._wanted.set()

    async def run(self) -> None:
        """Read until cancelled."""
        loaded_at = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._wanted.wait()
            self._wanted.clear()
            announced, self._announced = self._announced, {}
            if self._must_read_all:
                loaded_at, self._must_read_all = 0.0, False
            now = time.time()
            try:
                kept = await revocation_store.load(
                    self._store, min([loaded_at - MARGIN_S, *(one.at for one in announced)])
                )
            except StoreError as error:
                log.warning("revocations_unread", error=str(error))
                # Whether the store has them is unknown: they count.
                self._revoke_all(announced.values())
                self._announced |= {one: raised for one, raised in announced.items() if raised is not one}
                await asyncio.sleep(RETRY_S)
                self.read_all()
                continue
            self._revoke_all(kept)
            loaded_at = now
            await self._compare(announced, kept)

    async def _compare(self, announced: Mapping[Revocation, Revocation], kept: Iterable[Revocation]) -> None:
        latest = {(one.kind, one.value): one.at for one in kept}
        for one, raised in announced.items():
            # Redis keeps a score in 17 digits; a later revocation of the same replaces it.
            if latest.get((one.kind, one.value), -1.0) < one.at - 0.001:
                self._heard_foreign(one.kind)
            elif raised is not one:
                await self._pass_on(one, raised)

    def _revoke_all(self, found: Iterable[Revocation]) -> None:
        for revocation in found:
            self._revoke(revocation)

    async def _pass_on(self, announced: Revocation, raised: Revocation) -> None:
        """Have a revocation cover, at every gateway, the tokens that were seen here before it."""
        self._revoke(raised)
        try:
            await revocation_store.announce(self._store, raised, keep_s=self._keep_s, limit=self._limit)
        except StoreError as error:
            log.warning("revocation_not_passed_on", error=str(error))
            self._announced[announced] = raised
            self._wanted.set()
            await asyncio.sleep(RETRY_S)
