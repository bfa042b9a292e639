"""Revocations that gateways share through the store.

Each one is announced on the Redis channel `pw:control`, as a hint. The source of truth is the sorted set
`pw:{control}:revoked` or, for ended console logins, `pw:{control}:logins` (score: seconds since 1970). Gateways that
start later read these sets. `RevocationSync` keeps a process in sync with the channel and the sets.
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
"""Largest difference between gateways' clocks for which a timed read still finds another gateway's revocation."""

RETRY_S = 0.2

ANNOUNCED_MAX = 1000
"""Maximum announced revocations kept until the next read; beyond it, that read loads all stored revocations."""

log = structlog.get_logger()


async def announce(store: Store, revocation: Revocation, *, keep_s: float, limit: int) -> None:
    """Store and announce a revocation.

    Args:
        store: the store.
        revocation: the revocation.
        keep_s: seconds for which it is kept.
        limit: of more than `limit` + 1 revocations the store keeps the newest.

    Raises:
        StoreError: the store is unreachable or failing; the revocation may or may not be in force.
    """
    key = store.keys.ended_logins if revocation.kind == LOGIN else store.keys.revoked
    pipeline = store.pipeline()
    # GT: a revocation never moves back to an earlier instant.
    pipeline.command("ZADD", key, "GT", revocation.at, f"{revocation.kind} {revocation.value}")
    pipeline.command("ZREMRANGEBYSCORE", key, "-inf", revocation.at - keep_s)
    # One more than a gateway holds, so that a gateway that loads a full set merges the oldest into its cut-off time.
    pipeline.command("ZREMRANGEBYRANK", key, 0, -limit - 2)
    pipeline.command("EXPIRE", key, int(keep_s) + 1)
    try:
        await pipeline.run()
    except StoreError as error:
        raise StoreError(f"revocation: {error}") from error
    await store.publish(store.keys.control_channel, encode(revocation))
    await store.wait_durable()


async def load(store: Store, since: float = 0.0) -> list[Revocation]:
    """Return the stored revocations with an instant of `since` (seconds since 1970) or later, oldest first.

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

    It reads all of them after each subscription to the control channel. It reads the newer ones on each announcement,
    and on a timer, because an announcement can be lost.

    Attributes:
        store: holds the revocations.
        auth: remembers tokens with an `iat` ahead of the clock, for `Auth.covering`.
        revoke: puts a revocation in force; a second call for the same one does nothing.
        heard_foreign: called with the kind of an announced revocation that the store does not have.
        settings: seconds between two timed reads (sweep_s), and the limits of stored revocations.
    """

    store: Store
    auth: Auth
    revoke: Callable[[Revocation], None]
    heard_foreign: Callable[[str], None]
    settings: GatewaySettings
    _announced: dict[Revocation, Revocation] = field(default_factory=dict)  # as announced -> as raised by `covering`
    _must_read_all: bool = False
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def read_all(self) -> None:
        """Request a read of all revocations, because announcements may have been missed."""
        self._must_read_all = True
        self._wanted.set()

    def heard(self, message: Mapping[str, Any]) -> None:
        """Receive an announced revocation. It is only a hint: it takes effect if the store has it."""
        revocation = decode(message)
        if revocation is None:
            return
        if len(self._announced) < ANNOUNCED_MAX:
            self._announced[revocation] = self.auth.covering(revocation, time.time())
        else:
            self._must_read_all = True
        self._wanted.set()

    async def run(self) -> None:
        """Read revocations until cancelled."""
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
                # The store cannot confirm them, so put them in force to be safe.
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
            # 1 ms of tolerance for rounded scores. A later revocation of the same value replaces an earlier one.
            if latest.get((one.kind, one.value), -1.0) < one.at - 0.001:
                self.heard_foreign(one.kind)
            elif raised is not one:
                await self._pass_on(one, raised)

    async def _pass_on(self, announced: Revocation, raised: Revocation) -> None:
        """Announce the raised revocation, so that every gateway revokes the tokens seen here before it."""
        self.revoke(raised)
        try:
            keep_s, limit = self.settings.revocation_keep_s, self.settings.revocations_max
            await announce(self.store, raised, keep_s=keep_s, limit=limit)
        except StoreError as error:
            log.warning("revocation_not_passed_on", error=str(error))
            self._announced[announced] = raised
            self._wanted.set()
            await asyncio.sleep(RETRY_S)
