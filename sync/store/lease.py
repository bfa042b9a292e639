"""A lease: one of several processes does a piece of work. Its key holds the holder's token; only the holder ends it."""

from __future__ import annotations

import secrets

from sync.core.errors import SyncError
from sync.store.command_pipeline import CommandPipeline, Connection, Script

_ACQUIRE = Script.load(__package__, "lease_acquire")
_RELEASE = Script.load(__package__, "lease_release")


class LeaseLostError(SyncError):
    """The lease that the work needs is another process's; the text says whose work it is."""


class Lease:
    """One process's part in a lease. A holder that is killed loses it after `lease_s`.

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
        batch = CommandPipeline(self._store)
        self.add_acquire(batch)
        (is_held,) = await batch.run()
        return bool(is_held)

    def add_acquire(self, batch: CommandPipeline) -> None:
        """Add `acquire` to `batch`; the reply is 1 where the lease is held."""
        batch.script(_ACQUIRE, (self._key,), self._token, self._lease_ms)

    async def release(self) -> bool:
        """Give the lease back; return False if it was not held any more.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        batch.script(_RELEASE, (self._key,), self._token)
        (was_held,) = await batch.run()
        return bool(was_held)
