"""A lease: one of several processes does a piece of work. A shared walk: the work is a walk over many topics."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from sync.core.errors import SyncError
from sync.store.command_pipeline import CommandPipeline, Connection, Script, run_commands, run_script

WALK_LEASE_S = 30.0
"""Time after which another process takes over from one that was killed."""

WALK_FRESH_S = 60.0
"""How long a walk stands for the same walk of a process that wants it later."""

_ACQUIRE = Script.load(__package__, "lease_acquire")
_RELEASE = Script.load(__package__, "lease_release")


class LeaseLostError(SyncError):
    """The lease that the work needs is another process's; the text says whose work it is."""


class Lease:
    """One process's part in a lease, whose key has the holder's token. A killed holder loses it after `lease_s`.

    A holder that was paused for longer, and whose successor has the lease, can neither renew nor release it. One whose
    lease ran out while nobody wanted it gets it back. Builds before the token write "1", which is no holder's.
    """

    def __init__(self, store: Connection, key: str, lease_s: float) -> None:
        """Use `key`, which no other lease has."""
        self._store = store
        self._key = key
        self._lease_ms = int(lease_s * 1000)
        self._token = secrets.token_hex(8)

    async def acquire(self) -> bool:
        """Take the lease, or renew it, for `lease_s` from now; return False if another process has it.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return bool(await run_script(self._store, _ACQUIRE, (self._key,), self._token, self._lease_ms))

    def add_acquire(self, batch: CommandPipeline) -> None:
        """Add `acquire` to `batch`; the reply is 1 where the lease is held."""
        batch.script(_ACQUIRE, (self._key,), self._token, self._lease_ms)

    async def release(self) -> bool:
        """Give the lease back; return False if it was not held any more.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return bool(await run_script(self._store, _RELEASE, (self._key,), self._token))


class SharedWalk:
    """One process's part in a walk: the first one takes the lease and walks, the others wait until it is done."""

    def __init__(self, store: Connection, lease_key: str, done_key: str) -> None:
        """Use two keys of one slot: the lease, and what the last complete walk was for."""
        self._store = store
        self._done_key = done_key
        self._lease = Lease(store, lease_key, WALK_LEASE_S)

    async def run(self, what: str, topics: AsyncIterator[str], visit: Callable[[str], Awaitable[bool]]) -> bool:
        """Return True once the walk for `what` is done, by this process or another; False if it is to be asked again.

        Args:
            what: all that the walk's outcome depends on.
            topics: the topics to visit, some perhaps twice.
            visit: does one topic's work; returns False to end the walk.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        self._lease.add_acquire(batch)
        batch.command("GET", self._done_key)
        is_held, done = await batch.run()
        if not is_held:
            return bool(done == what.encode())
        try:
            if done == what.encode():
                return True
            renewed_at = time.monotonic()
            async for topic in topics:
                if time.monotonic() - renewed_at > WALK_LEASE_S / 3:
                    if not await self._lease.acquire():
                        return False
                    renewed_at = time.monotonic()
                if not await visit(topic):
                    return False
            await run_commands(self._store, ("SET", self._done_key, what, "PX", int(WALK_FRESH_S * 1000)))
            return True
        finally:
            await self._lease.release()
