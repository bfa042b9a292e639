"""Commands for rejected rows of the outbox: list them, retry them, or drop them for a reason.

A retried row is published after rows that were enqueued later. If its topic has been committed since the row was
enqueued, the retry would replace a newer state with an older one. `retry` skips such a row unless it is forced.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import click
import psycopg
import structlog

from planwire_client.core.topic import matched
from sync.core.errors import SyncError
from sync.core.plain_text import json_text, plain
from sync.outbox.relay import CHANNEL, Connection, connect, database_of
from sync.process.environment import OUTBOX_URL
from sync.settings import SettingsError, SyncSettings
from sync.store.redis.connect import open_store
from sync.store.store import Store

LISTED_MAX = 1000
"""Maximum rows per call: the oldest ones."""

ROWS = """
SELECT id, topic, event_id, refused, enqueued_at FROM planwire_outbox
WHERE refused IS NOT NULL AND (%s::bigint[] IS NULL OR id = ANY(%s)) ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
"""

_log = structlog.get_logger("sync.outbox")


class Refused(NamedTuple):
    """A rejected row and the reason. `newer`: the topic's version if it is newer than the row, else 0."""

    id: int
    topic: str
    event_id: str
    reason: str
    enqueued_at: str
    newer: int


async def refused_rows(connection: Connection, store: Store, ids: Sequence[int] | None = None) -> list[Refused]:
    """Return the rejected rows, all or those in `ids`, oldest first. They stay locked until the transaction ends.

    Raises:
        psycopg.Error: the database is unreachable, or has no such table.
        StoreError: the store is unreachable or failing.
    """
    wanted = None if ids is None else list(ids)
    cursor = await connection.execute(ROWS, [wanted, wanted, LISTED_MAX])
    rows = await cursor.fetchall()
    topics = list(dict.fromkeys(row[1] for row in rows if matched(row[1])))
    versions = dict(zip(topics, await store.versions(topics), strict=True))
    found = []
    for row_id, topic, event_id, reason, enqueued_at in rows:
        version = versions.get(topic, 0)
        newer = version if version > enqueued_at.timestamp() * 1_000_000 else 0
        at = enqueued_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        found.append(Refused(row_id, topic, event_id, reason, at, newer))
    return found


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

    async def work(connection: Connection, store: Store) -> None:
        for row in await refused_rows(connection, store):
            shown = {name: value for name, value in row._asdict().items() if name != "newer" or value}
            newer = f"  NEWER {row.newer}" if row.newer else ""
            line = f"{row.id}  {row.enqueued_at}  {row.topic}  {row.reason}{newer}"
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

    async def work(connection: Connection, store: Store) -> None:
        async with connection.transaction():
            found = await refused_rows(connection, store, None if everything else ids)
            chosen = [row for row in found if force or not row.newer]
            await connection.execute(
                "UPDATE planwire_outbox SET refused = NULL WHERE id = ANY(%s)", [[row.id for row in chosen]]
            )
            await connection.execute(f"NOTIFY {CHANNEL}")
        for row in chosen:
            _log.info("outbox_row_retried", row=row.id, topic=row.topic, was=row.reason)
            click.echo(plain(f"{row.id}  {row.topic}  tried again"))
        left = [row for row in found if row not in chosen]
        for row in left:
            left_alone = f"{row.id}  {row.topic}  left alone: committed since, at version {row.newer} (--force)"
            click.echo(plain(left_alone), err=True)
        missing = set(ids) - {row.id for row in found}
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

    async def work(connection: Connection, store: Store) -> None:
        async with connection.transaction():
            found = await refused_rows(connection, store, [id_])
            if not found:
                raise click.ClickException(f"no refused row has the id {id_}")
            await connection.execute("DELETE FROM planwire_outbox WHERE id = %s", [id_])
        (row,) = found
        _log.warning("outbox_row_dropped", row=row.id, topic=row.topic, was=row.reason, reason=reason[:500])
        click.echo(plain(f"{row.id}  {row.topic}  dropped"))

    _run(work)


def _run(work: Callable[[Connection, Store], Awaitable[None]]) -> None:
    """Run a command's work. An error is one line on standard error and exit status 1; for a wrong setting, 2."""
    # `planwire` passes an environment with the development runner's settings; otherwise os.environ is used.
    found = click.get_current_context().find_object(dict)
    environ = os.environ if found is None else found

    async def connected() -> None:
        url = database_of(environ)
        own = {name: value for name, value in environ.items() if name.startswith("PLANWIRE_")}
        async with open_store(SyncSettings.from_env(own)) as opened:
            try:
                async with await connect(url) as connection:
                    await work(connection, opened.store)
            except psycopg.Error as error:
                raise click.ClickException(f"{OUTBOX_URL}: {' '.join(str(error).split())}") from error

    # Log to standard error, so that log lines stay out of the command's output.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        asyncio.run(connected())
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except SyncError as error:
        raise click.ClickException(str(error)) from error
