"""`python -m sync.outbox`: commits the rows that applications enqueued in PostgreSQL, exactly once in effect.

One database transaction locks a row, waits until the store has it, and deletes it. If the relay dies in between, the
row stays and is committed again; its event id makes the repetition a duplicate. The first pending row of a topic is the
topic's lock: any number of relays may run, and a topic's rows are committed in order.

The applications create the table (`planwire_client.outbox.DDL`); this module uses its columns only.
`python -m sync.outbox list`, `retry` and `drop` work on rejected rows, like `planwire outbox`.
Exit status: 0 after SIGINT, SIGTERM or SIGHUP; 2, with one line on standard error, if it cannot start.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import Mapping
from typing import Any

import structlog

from sync.core.errors import SyncError
from sync.outbox.row_commits import RowCommitter, read_row
from sync.process import logs, parent_watch
from sync.process.environment import OUTBOX_URL
from sync.process.settings import read
from sync.process.supervisor import on_stop_signal
from sync.settings import SettingsError, SyncSettings
from sync.store.checks.inspection import check_start
from sync.store.models import StoreError
from sync.store.redis.connect import open_store
from sync.store.store import Store

try:
    import psycopg
except ImportError as error:  # pragma: no cover - for installations without the extra
    raise SystemExit("planwire outbox: psycopg is missing: pip install 'planwire[outbox]'") from error

CHANNEL = "planwire_outbox"
WINDOW = 1000
"""Number of oldest pending rows in which the first row of each topic is searched."""

BATCH = 500
"""Maximum rows committed in one transaction."""

BACKOFF_MAX_S = 5.0

HEADS = """
SELECT DISTINCT ON (topic) id FROM (
    SELECT id, topic FROM planwire_outbox WHERE refused IS NULL ORDER BY id LIMIT %s
) AS oldest ORDER BY topic, id
"""
"""The oldest pending row of each topic in the window. Since the window has the oldest rows, none outside is older."""

LOCK = "SELECT topic FROM planwire_outbox WHERE id = ANY(%s) AND refused IS NULL FOR UPDATE SKIP LOCKED"

ROWS = """
SELECT id, topic, state::text, private::text, event_id, order_value, cause::text, enqueued_at
FROM planwire_outbox WHERE topic = ANY(%s) AND refused IS NULL ORDER BY id LIMIT %s
"""

_log = structlog.get_logger("sync.outbox")

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


async def connect(database_url: str, *, autocommit: bool = False) -> Connection:
    """Return a connection to the applications' database."""
    return await psycopg.AsyncConnection.connect(
        database_url, autocommit=autocommit, connect_timeout=5, application_name="planwire outbox"
    )


class Relay:
    """Commits the rows of one database to the store. All tasks belong to `run`."""

    def __init__(self, database_url: str, store: Store, *, poll_s: float = 1.0) -> None:
        """Relay from the database. Notifications may be lost, so the table is also read about every `poll_s`."""
        self._url = database_url
        self._store = store
        self._poll_s = poll_s
        self._rows = RowCommitter(store)
        self._stopped = asyncio.Event()
        self._notified = asyncio.Event()

    def stop(self) -> None:
        """Make `run` return after the batch at hand is committed."""
        self._stopped.set()
        self._notified.set()

    async def run(self) -> None:
        """Relay until `stop`. While the database or the store is unreachable, retry with backoff."""
        async with asyncio.TaskGroup() as group:
            listener = group.create_task(self._listen(), name="outbox listen")
            await self._work()
            listener.cancel()

    async def _listen(self) -> None:
        """Wake `_work` on every notification."""
        while True:
            try:
                async with await connect(self._url, autocommit=True) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self._notified.set()  # rows from before LISTEN have no notification
                    async for _ in connection.notifies():
                        self._notified.set()
            except psycopg.Error as error:
                _log.warning("outbox_not_listening", error=str(error).strip())
            await asyncio.sleep(random.uniform(0.5, 1.5) * self._poll_s)  # noqa: S311 - jitter

    async def _work(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            try:
                async with await connect(self._url) as connection:
                    while not self._stopped.is_set():
                        self._notified.clear()
                        relayed = await self.relay_once(connection)
                        failures = 0
                        if not relayed:
                            await _waited(self._notified, random.uniform(0.5, 1) * self._poll_s)  # noqa: S311 - jitter
            except (psycopg.Error, StoreError) as error:
                failures += 1
                _log.warning("outbox_waits", error=str(error).strip(), failures=failures)
                pause_s = min(BACKOFF_MAX_S, 0.1 * 2.0 ** min(failures, 10))
                await _waited(self._stopped, random.uniform(0, pause_s))  # noqa: S311 - jitter

    async def relay_once(self, connection: Connection) -> int:
        """Process one batch of rows of topics that no other relay has locked.

        Returns:
            The number of rows that were committed or rejected; 0 if there is nothing to do.

        Raises:
            psycopg.Error: the database is unreachable, or has no such table.
            StoreError: the store is unreachable or failing; no row was changed.
        """
        async with connection.transaction():
            cursor = await connection.execute(HEADS, [WINDOW])
            cursor = await connection.execute(LOCK, [[row[0] for row in await cursor.fetchall()]])
            topics = [row[0] for row in await cursor.fetchall()]
            if not topics:
                return 0
            cursor = await connection.execute(ROWS, [topics, BATCH])
            rows = [read_row(fields) for fields in await cursor.fetchall()]
            done, rejected = await self._rows.commit([row for row in rows if row.change is not None])
            refused = [row for row in rows if row.change is None] + rejected
            for row in refused:
                _log.error("outbox_row_refused", row=row.id, topic=row.topic, reason=row.refusal)
                await connection.execute("UPDATE planwire_outbox SET refused = %s WHERE id = %s", [row.refusal, row.id])
            await connection.execute("DELETE FROM planwire_outbox WHERE id = ANY(%s)", [done])
        return len(done) + len(refused)


async def _waited(event: asyncio.Event, longest_s: float) -> None:
    """Return once `event` is set, or after `longest_s`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(longest_s):
            await event.wait()


def database_of(environ: Mapping[str, str]) -> str:
    """Return the address of the applications' database.

    Raises:
        SettingsError: it is not set, or a setting's name cannot be used.
    """
    url = read(environ, SyncSettings).get(OUTBOX_URL)
    if not url:
        raise SettingsError([f"{OUTBOX_URL} is not set: the applications' database, as postgresql://user@host/name"])
    return url


async def serve(settings: SyncSettings, database_url: str) -> None:
    """Relay until SIGINT, SIGTERM or SIGHUP.

    Raises:
        SyncError: the store or its URL cannot be used, or the embedded store does not start.
    """
    async with open_store(settings) as connected:
        relay = Relay(database_url, connected.store)
        on_stop_signal(relay.stop)
        await check_start(connected.store, dev=settings.dev)
        _log.info("outbox_started")
        await relay.run()
    _log.info("outbox_stopped")


def main(environ: Mapping[str, str]) -> int:
    """Run the relay that `environ` describes; return the exit status."""
    try:
        database_url = database_of(environ)
        settings = SyncSettings.from_env(environ)
        logs.configure(settings.log_level, settings.log_format)
        parent_watch.watch(settings.watch_pid)
        asyncio.run(serve(settings, database_url))
    except SyncError as error:
        print(f"planwire outbox: {error}", file=sys.stderr)
        return 2
    return 0
