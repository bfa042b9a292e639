"""Checks that the store is fit for use: its user's rights, its eviction policy, its data's format.

A process checks when it starts and repeatedly while it runs, since all of them can change. A server that does not
report them does not prevent the start.

A marker in the store has the format of an installation's data. A build does not work on data that it does not
understand. Every change of the data that an earlier build could misread raises the format. Consecutive builds
understand each other's formats, so rolling deploys and roll-backs need no downtime: `NEEDS` is at most the `FORMAT` of
the previous build. docs/operations.md has the policy, and the list of formats.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import structlog
from redis.exceptions import RedisError, ResponseError

from planwire_client.core.commit import FORMAT
from sync.core.errors import SyncError
from sync.store.checks import eviction, rights
from sync.store.checks.eviction import Memory
from sync.store.command_pipeline import Script, run_script
from sync.store.models import StoreError
from sync.store.store import Store

log = structlog.get_logger()

START_MAX_WAIT_S = 2.0
"""Maximum time that a starting process waits for the store's replies; then it starts anyway."""

EVERY_S = 10.0
"""Time between two checks of a process without a probe."""

SERVERS_MAX = 64
"""Maximum primaries of a Cluster in one check."""

NEEDS = 1
"""The format that a build must understand, at least, to run beside this build."""

_SCHEMA = Script.load("sync.store", "schema")


class UnfitStoreError(SyncError):
    """The store could lose data; the text says why and what to do."""


class SchemaError(SyncError):
    """The store's data needs a newer build; the text says what to do."""


class Inspection:
    """One process's checks of its store.

    Attributes:
        missing: ACL rules that the store's user lacks, by the last successful check.
        servers: each primary's memory settings; empty before the first successful check.
    """

    def __init__(self, store: Store, dev: bool = False) -> None:
        """Check `store`. `dev`: in development an eviction policy that is an error otherwise is only a warning."""
        self._store = store
        self._dev = dev
        self.missing: tuple[str, ...] = ()
        self.servers: tuple[Memory, ...] = ()
        self._said: dict[str, str] = {}

    @property
    def problems(self) -> Mapping[str, str]:
        """The reasons why the store is unfit for use, by `rights` and `eviction`; empty if it is fit."""
        found = {}
        if self.missing:
            found["rights"] = rights.sentence(self.missing)
        if not self._dev and (reason := eviction.refusal(self.servers)):
            found["eviction"] = reason
        return found

    @property
    def evicts(self) -> Mapping[str, float]:
        """Policy -> whether it evicts any of our keys: 1, 0, or NaN if that is unknown."""
        return eviction.gauge(self.servers)

    async def look(self) -> None:
        """Check once.

        Raises:
            StoreError: the store is unreachable; the results of the last check stay.
        """
        missing: dict[str, None] = {}
        memories = []
        for name, server in sorted((await self._store.servers()).items())[:SERVERS_MAX]:
            try:
                lacking = await rights.missing(
                    server, self._store.keys, is_cluster=bool(name), durable=self._store.durable
                )
                missing.update(dict.fromkeys(lacking))
                try:
                    memories.append(eviction.read(await server.info("memory")))
                except ResponseError:
                    memories.append(Memory())
            except (RedisError, OSError) as error:
                raise StoreError(f"inspection: {error}") from error
        self.missing, self.servers = tuple(missing), tuple(memories)

    async def run(self, every_s: float = EVERY_S) -> None:
        """Check every `every_s` and log new problems, until cancelled. While the store is unreachable, keep trying.

        Raises:
            SchemaError: the store's data needs a newer build.
        """
        is_marked = False
        while True:
            with contextlib.suppress(StoreError):  # the store's other users log it
                await self.look()
                self._say()
                if not is_marked:
                    await mark_schema(self._store)
                    is_marked = True
            await asyncio.sleep(every_s)

    def _say(self) -> None:
        unknown = ""
        if any(memory.policy == eviction.UNKNOWN for memory in self.servers):
            unknown = "INFO does not show the store's maxmemory-policy (or +info is missing):"
            unknown += " make sure that it is noeviction"
        for level, event, reason in (
            ("error", "store_rights_missing", self.problems.get("rights", "")),
            ("warning" if self._dev else "error", "store_evicts", eviction.refusal(self.servers)),
            ("warning", "store_may_evict", eviction.warning(self.servers)),
            ("warning", "store_policy_unknown", unknown),
        ):
            if reason and reason != self._said.get(event):
                getattr(log, level)(event, reason=reason)
            self._said[event] = reason


async def mark_schema(store: Store) -> None:
    """Mark the store's data with this build's format.

    Raises:
        SchemaError: the data needs a newer build; nothing was changed.
        StoreError: the store is unreachable or failing.
    """
    try:
        needs = int(await run_script(store, _SCHEMA, [store.keys.schema, store.keys.born], FORMAT, NEEDS))
    except StoreError as error:
        raise StoreError(f"schema: {error}") from error
    if needs > FORMAT:
        raise SchemaError(
            f"the store's data has format {needs}, and this build understands up to {FORMAT}:"
            " start the newer build again, or name another store or PLANWIRE_PREFIX"
        )


async def check_start(store: Store, *, dev: bool, max_wait_s: float = START_MAX_WAIT_S) -> None:
    """Return if the store may be used, or after `max_wait_s` without its reply.

    Raises:
        UnfitStoreError: the store may evict any key, and this is not development.
        SchemaError: the store's data needs a newer build.
    """
    inspection = Inspection(store, dev)
    try:
        async with asyncio.timeout(max_wait_s):
            await inspection.look()
            await mark_schema(store)
    except (StoreError, TimeoutError):
        pass  # the store may come later; `Inspection.run` checks it then
    if reason := inspection.problems.get("eviction"):
        raise UnfitStoreError(reason)
