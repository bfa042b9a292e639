"""A lease: one of several processes does a piece of work. A shared walk: a lease for a walk over many topics."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from sync.core.errors import SyncError
from sync.store.command_pipeline import CommandPipeline, Connection, Script, run_commands, run_script

WALK_LEASE_S = 30.0
"""Time after which another process takes over the walk of a killed process."""

WALK_FRESH_S = 60.0
"""Time for which a complete walk counts; a process that wants the same walk meanwhile does not repeat it."""

_ACQUIRE = Script.load(__package__, "lease_acquire")
_SET = Script.load(__package__, "lease_set")
_RELEASE = Script.load(__package__, "lease_release")


class LeaseLostError(SyncError):
    """Another process has the lease that the work needs; the text says which work."""


class Lease:
    """One process's handle of a lease. The key's value is the holder's token. A killed holder loses it after `lease_s`.

    After the lease has expired, its former holder gets it again unless another process has taken it; then the former
    holder can neither renew nor release it. Builds from before the token write "1", which is nobody's token.
    """

    def __init__(self, store: Connection, key: str, lease_s: float) -> None:
        """Use `key`, which must be for this lease only. `lease_s`: its length in seconds."""
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
        """Add `acquire` to `batch`; the reply is 1 if this process has the lease now, else 0."""
        batch.script(_ACQUIRE, (self._key,), self._token, self._lease_ms)

    def add_set(self, batch: CommandPipeline, key: str, value: str) -> None:
        """Add to `batch` the setting of a key in the lease's slot, if this process has the lease: reply 1, else 0."""
        batch.script(_SET, (self._key, key), self._token, value)

    async def release(self) -> bool:
        """Release the lease; return False if this process did not have it any more.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return bool(await run_script(self._store, _RELEASE, (self._key,), self._token))


class SharedWalk:
    """One process's part in a walk: the first process takes the lease and walks, the others wait until it is done."""

    def __init__(self, store: Connection, lease_key: str, done_key: str) -> None:
        """Use two keys of one slot: the lease, and the `what` of the last complete walk."""
        self._store = store
        self._done_key = done_key
        self._lease = Lease(store, lease_key, WALK_LEASE_S)

    async def run(self, what: str, topics: AsyncIterator[str], visit: Callable[[str], Awaitable[bool]]) -> bool:
        """Walk, unless another process walks or has walked. Return True if the walk is done; if False, call again.

        Args:
            what: the walk's identity: everything that its outcome depends on.
            topics: the topics to visit; duplicates are allowed.
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
