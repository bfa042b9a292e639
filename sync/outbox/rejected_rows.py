"""The rows that the outbox's relay refused: listed, tried again, or dropped for a reason; by people.

A row that is tried again is published after what came later. So one is left alone whose topic has been committed since
it was enqueued, unless it is insisted upon: it would put an older state over a newer one.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click
import psycopg
import structlog

from planwire_client.core.topic import Topic, TopicError
from sync.bootstrap import open_store
from sync.core.errors import SyncError
from sync.core.plain_text import json_text, plain
from sync.outbox.relay import CHANNEL, CONNECT_TIMEOUT_S, Connection, database_of
from sync.process.environment import OUTBOX_URL
from sync.settings import SettingsError, SyncSettings
from sync.store.store import Store

LISTED_MAX = 1000
"""How many rows one call looks at: the oldest."""

REASON_MAX = 500

ROWS = """
SELECT id, topic, event_id, refused, enqueued_at FROM planwire_outbox
WHERE refused IS NOT NULL AND (%s::bigint[] IS NULL OR id = ANY(%s)) ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
"""
RETRY = "UPDATE planwire_outbox SET refused = NULL WHERE id = ANY(%s)"
DROP = "DELETE FROM planwire_outbox WHERE id = %s"

_log = structlog.get_logger("sync.outbox")


class OutboxError(SyncError):
    """The applications' database cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A row, and why it was refused. `newer`: the topic's version where that is younger than the row, else 0."""

    id: int
    topic: str
    event_id: str
    reason: str
    enqueued_at: datetime
    newer: int

    def shown(self) -> dict[str, object]:
        """Return it as a JSON object."""
        found: dict[str, object] = {
            "id": self.id,
            "topic": self.topic,
            "event_id": self.event_id,
            "reason": self.reason,
            "enqueued_at": self.enqueued_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        return found | ({"newer": self.newer} if self.newer else {})


class Desk:
    """The refused rows of one database."""

    def __init__(self, connection: Connection, store: Store) -> None:
        self._connection = connection
        self._store = store

    async def listing(self, ids: Sequence[int] | None = None) -> list[Refused]:
        """Return the refused rows, the oldest first; of `ids`, if given. Locked until the transaction ends.

        Raises:
            psycopg.Error: the database is away or its table is.
            StoreError: the store is.
        """
        wanted = None if ids is None else list(ids)
        cursor = await self._connection.execute(ROWS, [wanted, wanted, LISTED_MAX])
        rows = await cursor.fetchall()
        topics = list(dict.fromkeys(row[1] for row in rows if _is_topic(row[1])))
        versions = dict(zip(topics, await self._store.versions(topics), strict=True))
        return [_refused(row, versions.get(row[1], 0)) for row in rows]

    async def retry(self, ids: Sequence[int] | None, *, force: bool = False) -> tuple[list[Refused], list[Refused]]:
        """Return the rows that the relay tries again now, and those it must not: something newer is published.

        `ids`: which; None for all. `force`: the second kind, too.

        Raises:
            psycopg.Error, StoreError: as `listing`.
        """
        async with self._connection.transaction():
            found = await self.listing(ids)
            chosen = [row for row in found if force or not row.newer]
            await self._connection.execute(RETRY, [[row.id for row in chosen]])
            await self._connection.execute(f"NOTIFY {CHANNEL}")
        for row in chosen:
            _log.info("outbox_row_retried", row=row.id, topic=row.topic, was=row.reason)
        return chosen, [row for row in found if row not in chosen]

    async def drop(self, row_id: int, reason: str) -> Refused | None:
        """Return the refused row that is gone now, for good; None: there is none of this id. `reason`: for the log.

        Raises:
            psycopg.Error, StoreError: as `listing`.
        """
        async with self._connection.transaction():
            found = await self.listing([row_id])
            if not found:
                return None
            await self._connection.execute(DROP, [row_id])
        (row,) = found
        _log.warning("outbox_row_dropped", row=row.id, topic=row.topic, was=row.reason, reason=reason[:REASON_MAX])
        return row


def _is_topic(name: str) -> bool:
    try:
        Topic.parse(name)
    except TopicError:
        return False
    return True


def _refused(row: Sequence[Any], version: int) -> Refused:
    row_id, topic, event_id, reason, enqueued_at = row
    is_newer = version > enqueued_at.timestamp() * 1_000_000
    return Refused(row_id, topic, event_id, reason, enqueued_at, version if is_newer else 0)


@asynccontextmanager
async def desk(environ: Mapping[str, str]) -> AsyncIterator[Desk]:
    """Open the desk that `environ` describes.

    Raises:
        SyncError: a setting is missing or wrong, or the database or the store is away.
    """
    url = database_of(environ)
    own = {name: value for name, value in environ.items() if name.startswith("PLANWIRE_")}
    async with open_store(SyncSettings.from_env(own)) as store:
        try:
            connecting = psycopg.AsyncConnection.connect(url, connect_timeout=CONNECT_TIMEOUT_S)
            async with await connecting as connection:
                yield Desk(connection, store)
        except psycopg.Error as error:
            raise OutboxError(f"{OUTBOX_URL}: {' '.join(str(error).split())}") from error


@click.group()
def commands() -> None:
    """Rows that the outbox's relay refused. PLANWIRE_OUTBOX_URL names the database, PLANWIRE_REDIS_URL the store.

    Example: planwire outbox list
    """


@commands.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead.")
def list_(as_json: bool) -> None:
    """List the refused rows, the oldest first, and why. NEWER: the topic was committed since.

    \b
    Example: planwire outbox list
    """

    async def work(rows: Desk) -> None:
        for row in await rows.listing():
            shown = row.shown()
            newer = f"  NEWER {row.newer}" if row.newer else ""
            line = f"{row.id}  {shown['enqueued_at']}  {row.topic}  {row.reason}{newer}"
            click.echo(json_text(shown) if as_json else plain(line))

    _run(work)


@commands.command()
@click.argument("ids", nargs=-1, type=click.IntRange(min=1), metavar="ID...")
@click.option("--all", "everything", is_flag=True, help="All that were refused.")
@click.option("--force", is_flag=True, help="Also where the topic was committed since: it goes back to this state.")
def retry(ids: tuple[int, ...], everything: bool, force: bool) -> None:
    """Have the relay take refused rows out again. Exit 1 where one is left alone, or is not there.

    \b
    Example: planwire outbox retry 17 18
             planwire outbox retry --all
    """
    if bool(ids) == everything:
        raise click.UsageError("name rows by their ids, or give --all")

    async def work(rows: Desk) -> None:
        chosen, left = await rows.retry(None if everything else ids, force=force)
        for row in chosen:
            click.echo(plain(f"{row.id}  {row.topic}  tried again"))
        for row in left:
            left_alone = f"{row.id}  {row.topic}  left alone: committed since, at version {row.newer} (--force)"
            click.echo(plain(left_alone), err=True)
        missing = set(ids) - {row.id for row in (*chosen, *left)}
        for row_id in sorted(missing):
            click.echo(f"{row_id}  no refused row has this id", err=True)
        if left or missing:
            sys.exit(1)

    _run(work)


@commands.command()
@click.argument("id_", type=click.IntRange(min=1), metavar="ID")
@click.option("--reason", required=True, help="Why it will never be published; for the log.")
def drop(id_: int, reason: str) -> None:
    """Delete one refused row for good.

    \b
    Example: planwire outbox drop 17 --reason "the tenant is gone"
    """

    async def work(rows: Desk) -> None:
        row = await rows.drop(id_, reason)
        if row is None:
            raise click.ClickException(f"no refused row has the id {id_}")
        click.echo(plain(f"{row.id}  {row.topic}  dropped"))

    _run(work)


def main() -> None:
    """Run the command that the process's arguments name, and exit."""
    commands(prog_name="python -m sync.outbox")


def _run(work: Callable[[Desk], Awaitable[None]]) -> None:
    """Do the work of a command. What cannot be done is one line on standard error, and exit 1; a setting, 2."""

    async def opened_desk() -> None:
        # The command line adds what the development runner has written; here the environment is all there is.
        environ = click.get_current_context().find_object(dict)
        async with desk(os.environ if environ is None else environ) as rows:
            await work(rows)

    # What was done is also logged, where it is in nobody's pipe.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        asyncio.run(opened_desk())
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except SyncError as error:
        raise click.ClickException(str(error)) from error
