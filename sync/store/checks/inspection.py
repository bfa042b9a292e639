"""Checks whether the store is fit for use: its user's rights, its eviction policy, its data's format.

A process checks when it starts, and repeatedly while it runs: all of them can change. A server that does not tell does
not keep a process from starting.

A marker tells the format of an installation's data: no build works on what it does not understand. A format is raised
by every change of what stands in the store that an earlier build could misread. Two builds that follow one another
understand each other's formats, so that a rolling deploy and a roll-back need no stop: `NEEDS` is at most the `FORMAT`
of the build before. docs/operations.md has the policy, and the list of formats.
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
"""Maximum time that a starting process waits for the store's answers; then it starts anyway."""

EVERY_S = 10.0
"""Time between two checks of a process without a probe."""

SERVERS_MAX = 64
"""Primaries of a Cluster that are asked in one check."""

NEEDS = 1
"""The oldest format that a build must understand that works beside this one."""

_SCHEMA = Script.load("sync.store", "schema")


class UnfitStoreError(SyncError):
    """The store would lose what it is given; the text says why and what to do."""


class SchemaError(SyncError):
    """The store's data needs a newer build; the text says what to do."""


class Inspection:
    """The looks of one process at its store.

    Attributes:
        missing: ACL rules that the store's user lacks, by the last look that was answered.
        servers: what each primary said of its memory; empty before the first answer.
    """

    def __init__(self, store: Store, dev: bool = False) -> None:
        """Look at `store`; `dev`: in development what would be refused is a warning."""
        self._store = store
        self._dev = dev
        self.missing: tuple[str, ...] = ()
        self.servers: tuple[Memory, ...] = ()
        self._said: dict[str, str] = {}

    @property
    def problems(self) -> Mapping[str, str]:
        """What makes the store unfit for use, in words, by `rights` and `eviction`; empty where nothing does."""
        found = {}
        if self.missing:
            found["rights"] = rights.sentence(self.missing)
        if not self._dev and (reason := eviction.refusal(self.servers)):
            found["eviction"] = reason
        return found

    @property
    def evicts(self) -> Mapping[str, float]:
        """By policy whether the store evicts any of our keys: 1, 0, or NaN where it does not tell."""
        return eviction.gauge(self.servers)

    async def look(self) -> None:
        """Look once.

        Raises:
            StoreError: the store was not reached; what was known stays.
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
        """Look every `every_s` and log what is wrong since the last look, until cancelled. A store that is away is
        waited for.

        Raises:
            SchemaError: the store's data needs a newer build.
        """
        is_marked = False
        while True:
            with contextlib.suppress(StoreError):  # whoever uses the store says so already
                await self.look()
                self._say()
                if not is_marked:
                    await mark_schema(self._store)
                    is_marked = True
            await asyncio.sleep(every_s)

    def _say(self) -> None:
        unknown = ""
        if any(memory.policy == eviction.UNKNOWN for memory in self.servers):
            unknown = "INFO does not tell the store's maxmemory-policy (or +info is missing):"
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
    """Return once the store's data is marked as this build's too.

    Raises:
        SchemaError: it needs a newer build; nothing was changed.
        StoreError: the store is unreachable or failing.
    """
    try:
        needs = int(await run_script(store, _SCHEMA, [store.keys.schema], FORMAT, NEEDS))
    except StoreError as error:
        raise StoreError(f"schema: {error}") from error
    if needs > FORMAT:
        raise SchemaError(
            f"the store's data has format {needs}, and this build understands up to {FORMAT}:"
            " start the newer build again, or name another store or PLANWIRE_PREFIX"
        )


async def check_start(store: Store, *, dev: bool, max_wait_s: float = START_MAX_WAIT_S) -> None:
    """Return when the store may be used, or does not tell in time.

    Raises:
        UnfitStoreError: it may evict any key, and this is not development.
        SchemaError: its data needs a newer build.
    """
    inspection = Inspection(store, dev)
    try:
        async with asyncio.timeout(max_wait_s):
            await inspection.look()
            await mark_schema(store)
    except (StoreError, TimeoutError):
        pass  # it may come later, and is looked at again then
    if reason := inspection.problems.get("eviction"):
        raise UnfitStoreError(reason)
