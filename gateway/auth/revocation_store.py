"""What gateways tell each other through the store: revocations, announced at once and kept for those who start later.

The Redis channel `pw:control` is the hint, the sorted sets `pw:{control}:revoked` and, for ended logins to the console,
`pw:{control}:logins` (score: seconds since 1970) the truth. `RevocationSync` keeps a process in step with both.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis.exceptions import RedisError

from gateway.auth.revocations import LOGIN, Revocation, decode, encode
from gateway.auth.tokens import Auth
from gateway.settings import GatewaySettings
from sync.store.models import StoreError
from sync.store.store import Store

MARGIN_S = 60.0
"""Difference between gateways' clocks within which the timer finds another's revocation."""

RETRY_S = 0.2

ANNOUNCED_MAX = 1000
"""Announced revocations that are looked up one by one; of more, all that the store keeps are read."""

log = structlog.get_logger()


async def announce(store: Store, revocation: Revocation, *, keep_s: float, limit: int) -> None:
    """Return once the revocation is announced, and kept for `keep_s` seconds (of more than `limit` + 1 the newest are).

    Raises:
        StoreError: the store is unreachable or failing; the revocation may or may not be in force.
    """
    key = store.keys.ended_logins if revocation.kind == LOGIN else store.keys.revoked
    pipeline = store.pipeline()
    # GT: a revocation never moves back to an earlier instant.
    pipeline.command("ZADD", key, "GT", revocation.at, f"{revocation.kind} {revocation.value}")
    pipeline.command("ZREMRANGEBYSCORE", key, "-inf", revocation.at - keep_s)
    # One above what a gateway holds: on loading a full set it gives up the oldest for a general one.
    pipeline.command("ZREMRANGEBYRANK", key, 0, -limit - 2)
    pipeline.command("EXPIRE", key, int(keep_s) + 1)
    try:
        await pipeline.run()
    except StoreError as error:
        raise StoreError(f"revocation: {error}") from error
    await store.publish(store.keys.control_channel, encode(revocation))
    await store.wait_durable()


async def load(store: Store, since: float = 0.0) -> list[Revocation]:
    """Return every revocation kept whose instant is `since` (seconds since 1970) or later, oldest first.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    entries: list[Any] = []
    try:
        for key in (store.keys.revoked, store.keys.ended_logins):
            entries += await store.redis.zrangebyscore(key, since, "+inf", withscores=True)
    except (RedisError, OSError) as error:
        raise StoreError(f"revocations: {error}") from error
    found = []
    for member, at in entries:
        kind, _, value = member.decode("utf-8", "replace").partition(" ")
        if (revocation := decode({"kind": kind, "value": value, "at": at})) is not None:
            found.append(revocation)
    return found


@dataclass(eq=False)
class RevocationSync:
    """Reads the store's revocations and puts them in force.

    All of them after each subscription of the control channel; the newer ones when one is announced, and on a timer,
    because an announcement can be lost.

    Attributes:
        store: keeps the revocations.
        auth: remembers the tokens that an announced revocation has to cover.
        revoke: puts a revocation in force; a second call for the same one does nothing.
        heard_foreign: is called with the kind of an announced revocation that the store does not have.
        settings: the seconds between two reads by the timer (sweep_s), and how many revocations are kept for how long.
    """

    store: Store
    auth: Auth
    revoke: Callable[[Revocation], None]
    heard_foreign: Callable[[str], None]
    settings: GatewaySettings
    _announced: dict[Revocation, Revocation] = field(default_factory=dict)  # as announced: as raised over tokens here
    _must_read_all: bool = False
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def read_all(self) -> None:
        """Read all revocations soon: what was announced until now may have been missed."""
        self._must_read_all = True
        self._wanted.set()

    def heard(self, message: Mapping[str, Any]) -> None:
        """Take an announced revocation. It is a hint: it counts if the store keeps it."""
        revocation = decode(message)
        if revocation is None:
            return
        if len(self._announced) < ANNOUNCED_MAX:
            self._announced[revocation] = self.auth.covering(revocation, time.time())
        else:
            self._must_read_all = True
        self._wanted.set()

    async def run(self) -> None:
        """Read until cancelled."""
        loaded_at = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.sweep_s):
                    await self._wanted.wait()
            self._wanted.clear()
            announced, self._announced = self._announced, {}
            if self._must_read_all:
                loaded_at, self._must_read_all = 0.0, False
            now = time.time()
            try:
                kept = await load(self.store, min([loaded_at - MARGIN_S, *(one.at for one in announced)]))
            except StoreError as error:
                log.warning("revocations_unread", error=str(error))
                # Whether the store has them is unknown: they count.
                for raised in announced.values():
                    self.revoke(raised)
                self._announced |= {one: raised for one, raised in announced.items() if raised is not one}
                await asyncio.sleep(RETRY_S)
                self.read_all()
                continue
            for revocation in kept:
                self.revoke(revocation)
            loaded_at = now
            await self._compare(announced, kept)

    async def _compare(self, announced: Mapping[Revocation, Revocation], kept: Iterable[Revocation]) -> None:
        latest = {(one.kind, one.value): one.at for one in kept}
        for one, raised in announced.items():
            # Redis keeps a score in 17 digits; a later revocation of the same replaces it.
            if latest.get((one.kind, one.value), -1.0) < one.at - 0.001:
                self.heard_foreign(one.kind)
            elif raised is not one:
                await self._pass_on(one, raised)

    async def _pass_on(self, announced: Revocation, raised: Revocation) -> None:
        """Have a revocation cover, at every gateway, the tokens that were seen here before it."""
        self.revoke(raised)
        try:
            keep_s, limit = self.settings.revocation_keep_s, self.settings.revocations_max
            await announce(self.store, raised, keep_s=keep_s, limit=limit)
        except StoreError as error:
            log.warning("revocation_not_passed_on", error=str(error))
            self._announced[announced] = raised
            self._wanted.set()
            await asyncio.sleep(RETRY_S)
