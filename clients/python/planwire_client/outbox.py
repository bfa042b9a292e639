"""The application's side of the transactional outbox: publishes exactly if a PostgreSQL transaction commits.

`DDL` creates the table. An `enqueue` inside the transaction that changes the plan adds a row. Planwire's relay
(`python -m sync.outbox` there) takes out the rows of each topic in order, and publishes each with its event id.

A state is published whole and replaces the one before. So compute it from rows that the same transaction has locked or
changed.
"""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING, Any, Protocol, Unpack

import orjson

from planwire_client.change import Fields, Publish, check, encode
from planwire_client.core.commit import order_token
from planwire_client.errors import PlanwireError

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

DDL = """\
CREATE TABLE IF NOT EXISTS planwire_outbox (
    id bigint PRIMARY KEY,
    topic text NOT NULL,
    state json NOT NULL,
    private json,
    event_id text NOT NULL DEFAULT gen_random_uuid()::text,
    order_value text,
    cause json,
    enqueued_at timestamptz NOT NULL DEFAULT now(),
    refused text
);
CREATE SEQUENCE IF NOT EXISTS planwire_outbox_id OWNED BY planwire_outbox.id;
CREATE INDEX IF NOT EXISTS planwire_outbox_pending ON planwire_outbox (id) WHERE refused IS NULL;
CREATE OR REPLACE FUNCTION planwire_outbox_enter() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- One transaction at a time per topic, until it ends, and only then is the number drawn: within a topic the
    -- numbers are in the order of the commits. Drawn earlier, a slow transaction would be published over a later one.
    PERFORM pg_advisory_xact_lock(1886873202, hashtext(NEW.topic));
    NEW.id := nextval((quote_ident(TG_TABLE_SCHEMA) || '.planwire_outbox_id')::regclass);
    -- Heard by the relay when, and only if, the transaction commits; once, however many rows it has.
    PERFORM pg_notify('planwire_outbox', '');
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER planwire_outbox_enter BEFORE INSERT ON planwire_outbox
    FOR EACH ROW EXECUTE FUNCTION planwire_outbox_enter();
"""
"""Creates the table, idempotently; for PostgreSQL 14 or later. It has no percent signs and no bind parameters, so that
Django's RunSQL and SQLAlchemy's exec_driver_sql accept it unchanged."""

_COLUMNS = ("topic", "state", "private", "event_id", "order_value", "cause")
_JSON = ("state", "private", "cause")
_VALUES = ", ".join("%s::json" if name in _JSON else "%s" for name in _COLUMNS)
_NAMED = ", ".join(f"CAST(:{name} AS json)" if name in _JSON else f":{name}" for name in _COLUMNS)
INSERT_PYFORMAT = f"INSERT INTO planwire_outbox ({', '.join(_COLUMNS)}) VALUES ({_VALUES})"  # noqa: S608 - constants only
INSERT_NAMED = f"INSERT INTO planwire_outbox ({', '.join(_COLUMNS)}) VALUES ({_NAMED})"  # noqa: S608 - constants only


class OutsideTransaction(PlanwireError):
    """The connection is in autocommit, so the row would be published even if the change is rolled back."""


class Connection(Protocol):
    """The required interface of a DB-API connection, such as psycopg's or Django's wrapper."""

    def cursor(self) -> Any:
        """Return a cursor."""


def row(topic: str, state: object, **fields: Unpack[Fields]) -> dict[str, Any]:
    """Return a row's columns, in order. They are checked here so that an invalid publish fails the transaction.

    Raises:
        PublishRefused: the topic, the state or another field cannot be published.
    """
    fields["event_id"] = fields.get("event_id") or str(uuid.uuid4())
    item = Publish(topic, state, **fields)
    check(item)
    return {
        "topic": topic,
        "state": encode("state", state).decode(),
        "private": None if item.private is None else encode("private", item.private).decode(),
        "event_id": item.event_id,
        "order_value": None if item.order is None else order_token(item.order),
        "cause": None if item.cause is None else orjson.dumps(dict(item.cause)).decode(),
    }


def enqueue(connection: Connection, topic: str, state: object, **fields: Unpack[Fields]) -> str:
    """Add a publish to the connection's transaction, without committing it; return the event id.

    `connection`: a connection of psycopg or another DB-API driver with the pyformat style, or `django.db.connection`.
    Enqueue several topics of a transaction in a fixed order everywhere, because otherwise deadlocks are possible.

    Raises:
        PublishRefused: the publish is invalid.
        OutsideTransaction: the connection is in autocommit, with no transaction open.
    """
    columns = row(topic, state, **fields)
    _check_transaction(connection)
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(INSERT_PYFORMAT, list(columns.values()))
    return str(columns["event_id"])


def enqueue_django(topic: str, state: object, *, using: str = "default", **fields: Unpack[Fields]) -> str:
    """Add a publish to the surrounding `transaction.atomic()`; return the event id.

    Raises:
        PublishRefused: the publish is invalid.
        OutsideTransaction: there is no surrounding atomic block.
    """
    from django.db import connections

    return enqueue(connections[using], topic, state, **fields)


def enqueue_sqlalchemy(
    session: Session | sqlalchemy.Connection, topic: str, state: object, **fields: Unpack[Fields]
) -> str:
    """Add a publish to the transaction of the session or connection; return the event id.

    Raises:
        PublishRefused: the publish is invalid.
        OutsideTransaction: the engine is in autocommit.
    """
    from sqlalchemy import text
    from sqlalchemy.orm import Session

    columns = row(topic, state, **fields)
    connection = session.connection() if isinstance(session, Session) else session
    if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
        raise OutsideTransaction("the engine is in autocommit: there is no transaction to belong to")
    connection.execute(text(INSERT_NAMED), columns)
    return str(columns["event_id"])


async def enqueue_sqlalchemy_async(
    session: AsyncSession | AsyncConnection, topic: str, state: object, **fields: Unpack[Fields]
) -> str:
    """Do the same as `enqueue_sqlalchemy`, for an AsyncSession or AsyncConnection.

    Raises:
        PublishRefused: the publish is invalid.
        OutsideTransaction: the engine is in autocommit.
    """
    return await session.run_sync(lambda inner: enqueue_sqlalchemy(inner, topic, state, **fields))


async def enqueue_psycopg_async(
    connection: psycopg.AsyncConnection[Any], topic: str, state: object, **fields: Unpack[Fields]
) -> str:
    """Do the same as `enqueue`, for psycopg's AsyncConnection.

    Raises:
        PublishRefused: the publish is invalid.
        OutsideTransaction: the connection is in autocommit.
    """
    columns = row(topic, state, **fields)
    _check_transaction(connection)
    await connection.execute(INSERT_PYFORMAT.encode(), list(columns.values()))
    return str(columns["event_id"])


def _check_transaction(connection: Any) -> None:
    """Raise OutsideTransaction if the connection is in autocommit."""
    is_atomic = getattr(connection, "in_atomic_block", None)
    if is_atomic is not None:  # Django's
        is_open = is_atomic or not connection.get_autocommit()
    else:
        # psycopg's TransactionStatus: IDLE is 0.
        status = getattr(getattr(connection, "info", None), "transaction_status", 0)
        is_open = getattr(connection, "autocommit", False) is not True or int(status) != 0
    if not is_open:
        raise OutsideTransaction("the connection is in autocommit: there is no transaction to belong to")


if __name__ == "__main__":
    # For migrations in plain SQL: python -m planwire_client.outbox > outbox.sql
    print(DDL, end="")
