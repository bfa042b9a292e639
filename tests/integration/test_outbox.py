"""The transactional outbox against a real PostgreSQL: what commits is pushed once and in order, and nothing else is."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from planwire_client import PublishRefused, outbox
from planwire_client.core import canonical_json
from planwire_client.core.commit import BILLED, BILLING
from sync.core import announcement
from sync.outbox import relay as relays
from sync.outbox.relay import Relay
from sync.store import counters
from sync.store.isolation import ATTEMPTS_MAX
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change, Committed, StoreError
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.support.postgres import Postgres, start_postgres
from tests.support.processes import ROOT, Running, clean_environ
from tests.support.servers import Server, start_valkey
from tests.support.wait import until


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with start_postgres() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """A database with the table in it."""
    with postgres.database() as url:
        with psycopg.connect(url) as connection:
            connection.execute(outbox.DDL.encode())
            connection.execute(outbox.DDL.encode())  # idempotent
        yield url


@asynccontextmanager
async def relaying(database: str, store: Store, poll_s: float = 0.2) -> AsyncIterator[Relay]:
    relay = Relay(database, store, poll_s=poll_s)
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        relay.stop()
        await task


def put(database: str, *items: tuple[str, object], roll_back: bool = False) -> None:
    """Enqueue the items in one transaction."""
    with psycopg.connect(database) as connection:
        for topic, state in items:
            outbox.enqueue(connection, topic, state)
        if roll_back:
            connection.rollback()


def pending(database: str) -> int:
    with psycopg.connect(database) as connection:
        found = connection.execute("SELECT count(*) FROM planwire_outbox WHERE refused IS NULL").fetchone()
    assert found is not None
    count: int = found[0]
    return count


async def history(store: Store, topic: str) -> list[Any]:
    """Every state the topic has had, oldest first."""
    return [json.loads(one.state) for one in reversed(await store.log(topic, 500))]


async def test_what_commits_is_pushed_and_what_does_not_is_not(database: str, store: Store) -> None:
    put(database, ("tenant:a", {"n": 1}), ("tenant:b", {"n": 1}))
    put(database, ("tenant:a", {"n": 2}), roll_back=True)
    put(database, ("tenant:a", {"n": 3}))
    async with relaying(database, store):
        await until(lambda: pending(database) == 0)
    assert await history(store, "tenant:a") == [{"n": 1}, {"n": 3}]
    assert await history(store, "tenant:b") == [{"n": 1}]
    cause = json.loads((await store.read("tenant:a")).cause)
    assert cause["source"] == "outbox"
    assert cause.keys() == {"source", "event_id", "occurred_at"}


async def test_larger_states_are_announced_with_a_patch(database: str, store: Store) -> None:
    pad = "x" * 2000
    before = await store.commit(Change("tenant:a", canonical_json.encode({"n": 1, "pad": pad})))
    async with store.redis.pubsub() as bus:
        await bus.subscribe(keys.channel("tenant:a"))
        assert (await until(lambda: bus.get_message(timeout=0.1)))["type"] == "subscribe"
        put(database, ("tenant:a", {"n": 2, "pad": pad}))
        async with relaying(database, store):
            await until(lambda: pending(database) == 0)
        message = await until(lambda: bus.get_message(timeout=0.1))
    heard = announcement.parse(message["data"])
    assert (heard.base, heard.patch) == (before.version, b'{"n":2}')


async def test_a_commit_is_heard_at_once(database: str, store: Store) -> None:
    """Not at the next poll, which is a minute away."""
    async with relaying(database, store, poll_s=60):
        await until(lambda: listeners(database) == 1)
        await asyncio.sleep(0.1)  # the first look at the empty table is over
        put(database, ("tenant:a", {"n": 1}))
        await until(lambda: pending(database) == 0, timeout_s=20)
    assert await history(store, "tenant:a") == [{"n": 1}]


def listeners(database: str, end: bool = False) -> int:
    """How many relays listen; `end`: cut them off."""
    what = "pg_terminate_backend(pid)" if end else "pid"
    with psycopg.connect(database) as connection:
        query = f"SELECT {what} FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        return len(connection.execute(query.encode()).fetchall())


async def test_a_lost_listener_costs_a_poll_at_most(database: str, store: Store) -> None:
    async with relaying(database, store):
        await until(lambda: listeners(database) == 1)
        listeners(database, end=True)
        put(database, ("tenant:a", {"n": 1}))
        await until(lambda: pending(database) == 0)
        await until(lambda: listeners(database) == 1)


async def test_a_slow_transaction_is_not_published_over_a_later_one(database: str, store: Store) -> None:
    """Both write the topic; the one that commits last must be the last to be published."""
    with psycopg.connect(database) as slow:
        outbox.enqueue(slow, "tenant:a", {"who": "slow"})
        quick = asyncio.create_task(asyncio.to_thread(put, database, ("tenant:a", {"who": "quick"})))
        put(database, ("tenant:b", {"n": 1}))  # another topic does not wait
        async with relaying(database, store):
            await until(lambda: history(store, "tenant:b"))
            await until(lambda: waiting(database) == 1)
            assert await history(store, "tenant:a") == []
            slow.commit()
            await quick
            await until(lambda: pending(database) == 0)
    assert await history(store, "tenant:a") == [{"who": "slow"}, {"who": "quick"}]


def waiting(database: str) -> int:
    """How many transactions wait for another's end."""
    with psycopg.connect(database) as connection:
        query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return len(connection.execute(query).fetchall())


async def test_a_topic_that_another_relay_holds_is_left_to_it(database: str, store: Store) -> None:
    put(database, ("tenant:a", {"n": 1}), ("tenant:b", {"n": 1}), ("tenant:a", {"n": 2}))
    with psycopg.connect(database) as other:
        assert len(other.execute(relays.LOCK.encode(), [[1]]).fetchall()) == 1
        async with relaying(database, store, 0.01):
            await until(lambda: history(store, "tenant:b"))
            await asyncio.sleep(0.1)  # several looks
            assert await history(store, "tenant:a") == []
            other.rollback()
            await until(lambda: pending(database) == 0)
    assert await history(store, "tenant:a") == [{"n": 1}, {"n": 2}]


async def test_several_relays_keep_each_topics_order(database: str, store: Store) -> None:
    expected: dict[str, list[object]] = {}
    for n in range(400):
        topic = f"tenant:t{n % 7}"
        expected.setdefault(topic, []).append({"n": n})
        put(database, (topic, {"n": n}))
    async with relaying(database, store, 0.01), relaying(database, store, 0.01), relaying(database, store, 0.01):
        for n in range(400, 500):
            topic = f"tenant:t{n % 7}"
            expected[topic].append({"n": n})
            await asyncio.to_thread(put, database, (topic, {"n": n}))
        await until(lambda: pending(database) == 0, timeout_s=20)
    assert {topic: await history(store, topic) for topic in expected} == expected


async def test_a_deep_backlog_of_one_topic_holds_up_nobody_for_ever(database: str, store: Store) -> None:
    with psycopg.connect(database) as connection:
        for n in range(relays.WINDOW + 200):
            outbox.enqueue(connection, "tenant:deep", {"n": n})
        outbox.enqueue(connection, "tenant:late", {"n": 1})
    async with relaying(database, store):
        await until(lambda: pending(database) == 0, timeout_s=60)
    assert (await history(store, "tenant:deep"))[-1] == {"n": relays.WINDOW + 199}
    assert await history(store, "tenant:late") == [{"n": 1}]


class Dying(Store):
    """A store whose answer is lost, after it has committed, every other time."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.redis)
        self.calls = 0

    async def commit_many(self, changes: Sequence[Change]) -> list[Committed | StoreError]:
        outcomes = await super().commit_many(changes)
        self.calls += 1
        if self.calls % 2:
            raise StoreError("the answer was lost")
        return outcomes


async def test_a_lost_answer_is_asked_for_again_and_nothing_is_done_twice(database: str, store: Store) -> None:
    put(database, *(("tenant:a", {"n": n}) for n in range(6)), ("tenant:b", {"n": 0}))
    dying = Dying(store)
    async with relaying(database, dying, 0.01):
        await until(lambda: pending(database) == 0, timeout_s=20)
    assert dying.calls > 7
    assert await history(store, "tenant:a") == [{"n": n} for n in range(6)]
    assert await history(store, "tenant:b") == [{"n": 0}]


class Refusing(Store):
    """A store that fails one topic's commits while `is_down`."""

    is_down = True

    async def commit_many(self, changes: Sequence[Change]) -> list[Committed | StoreError]:
        passed = [one for one in changes if not (self.is_down and one.topic == "tenant:a")]
        outcomes = iter(await super().commit_many(passed))
        return [next(outcomes) if one in passed else StoreError("down") for one in changes]


async def test_a_failing_topic_is_not_overtaken_by_itself_and_stops_no_other(database: str, store: Store) -> None:
    put(database, ("tenant:a", {"n": 1}), ("tenant:b", {"n": 1}), ("tenant:a", {"n": 2}), ("tenant:b", {"n": 2}))
    refusing = Refusing(store.redis)
    async with relaying(database, refusing, 0.01):
        await until(lambda: pending(database) == 2)
        assert await history(store, "tenant:b") == [{"n": 1}, {"n": 2}]
        refusing.is_down = False
        await until(lambda: pending(database) == 0, timeout_s=20)
    assert await history(store, "tenant:a") == [{"n": 1}, {"n": 2}]


async def test_a_row_whose_commit_fails_is_rejected_after_some_attempts_and_stops_no_other(
    database: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the store holds for one topic is damaged, and another row's state makes the code itself fail."""
    monkeypatch.setattr("sync.outbox.row_commits.backoff_s", lambda failures: 0.01)
    redis: Any = store.redis
    await redis.set(keys.snap("tenant:type"), "a string where a hash should be")
    commit_many = store.commit_many

    async def failing(changes: Sequence[Change]) -> list[Committed | StoreError]:
        if any(change.topic == "tenant:raises" for change in changes):
            raise ZeroDivisionError("NUL: \0")
        return await commit_many(changes)

    monkeypatch.setattr(store, "commit_many", failing)
    put(database, *[(f"tenant:{name}", {"n": n}) for n in range(2) for name in ("raises", "type", "zzz")])
    async with relaying(database, store, poll_s=0.02):
        await until(partial(pending_is, database, 0), 18)
    assert await history(store, "tenant:zzz") == [{"n": 0}, {"n": 1}]
    with psycopg.connect(database) as connection:
        found = connection.execute("SELECT topic, refused FROM planwire_outbox ORDER BY id").fetchall()
    assert [topic for topic, _ in found] == ["tenant:raises", "tenant:type"] * 2
    assert "NUL: \ufffd" in found[0][1]
    assert "WRONGTYPE" in found[1][1]
    assert (await counters.read(store))["item_failures", (("queue", "outbox"),)] == 4 * ATTEMPTS_MAX


async def pending_is(database: str, count: int) -> bool:
    return pending(database) == count


@pytest.mark.parametrize(
    ("topic", "state", "cause"),
    [
        ("nothing", "{}", None),
        ("probe:a", "{}", None),
        ("tenant:a", json.dumps("x" * 40_000), None),
        ("tenant:a", "{}", "[]"),
        ("tenant:a", "1e999", None),
        ("tenant:a", '{"seats":9007199254740992}', None),
        ("tenant:a", '{"id":18446744073709551616}', None),
    ],
)
async def test_a_row_that_cannot_be_published_is_kept_and_said(
    database: str, store: Store, topic: str, state: str, cause: str | None
) -> None:
    """Inserted by hand: `enqueue` would have refused it."""
    with psycopg.connect(database) as connection:
        connection.execute(
            "INSERT INTO planwire_outbox (topic, state, cause) VALUES (%s, %s::json, %s::json)", [topic, state, cause]
        )
        outbox.enqueue(connection, "tenant:a", {"n": 2})
    async with relaying(database, store):
        await until(lambda: pending(database) == 0)
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT topic, refused <> '' FROM planwire_outbox").fetchall()
    assert rows == [(topic, True)]
    assert await history(store, "tenant:a") == [{"n": 2}]


async def test_a_row_of_a_topic_that_billing_computes_is_kept_and_said(database: str, store: Store) -> None:
    await store.commit(Change("tenant:a", b'{"plan":"pro"}', b'{"facts":1}', owner=BILLING))
    put(database, ("tenant:a", {"plan": "free"}), ("tenant:b", {"n": 1}), ("tenant:a", {"plan": "none"}))
    async with relaying(database, store):
        await until(lambda: pending(database) == 0)
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT topic, refused FROM planwire_outbox").fetchall()
    assert rows == [("tenant:a", BILLED)] * 2
    assert await history(store, "tenant:a") == [{"plan": "pro"}]
    assert await history(store, "tenant:b") == [{"n": 1}]


async def test_a_store_and_a_database_that_are_away_are_waited_for(database: str) -> None:
    # Else, while the file is being synced, what is answered may not be in it yet: killed, the store would have lost it.
    with start_valkey(aof=True, args=["--appendfsync", "always"]) as valkey:
        store = connect(valkey.url).store
        async with relaying(database, store, 0.05):
            put(database, ("tenant:a", {"n": 1}))
            await until(lambda: pending(database) == 0)
            valkey.kill()
            put(database, ("tenant:a", {"n": 2}))
            await asyncio.sleep(0.3)
            assert pending(database) == 1
            await asyncio.to_thread(valkey.start)
            await until(lambda: pending(database) == 0, timeout_s=20)
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'planwire outbox'"
                )
            put(database, ("tenant:a", {"n": 3}))
            await until(lambda: pending(database) == 0, timeout_s=20)
            assert await history(store, "tenant:a") == [{"n": 1}, {"n": 2}, {"n": 3}]
        await store.aclose()


# The process, killed.


def start_relay(database: str, store_url: str, folder: Path) -> subprocess.Popen[bytes]:
    environ = clean_environ(folder, PLANWIRE_REDIS_URL=store_url, PLANWIRE_OUTBOX_URL=database)
    return subprocess.Popen(
        [sys.executable, "-m", "sync.outbox"],
        env=environ,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )


KILLS = 12
TOPICS = 4
BACKLOG = 20
"""How many rows wait at most: the history keeps 200 versions of a topic, and no more can be compared."""


@pytest.mark.timeout(120)
async def test_killed_at_any_moment_it_loses_nothing_repeats_nothing_and_invents_nothing(
    database: str, valkey: Server, store: Store, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    expected: dict[str, list[object]] = {f"tenant:t{n}": [] for n in range(TOPICS)}
    stop = asyncio.Event()

    def write(number: int) -> None:
        topic = f"tenant:t{number % TOPICS}"
        undone = number % 5 == 0
        put(database, (topic, {"n": number, "undone": undone}), roll_back=undone)
        if not undone:
            expected[topic].append({"n": number, "undone": False})

    async def writer() -> None:
        number = 0
        while not stop.is_set():
            if await asyncio.to_thread(pending, database) < BACKLOG:
                number += 1
                await asyncio.to_thread(write, number)
            await asyncio.sleep(0.03)

    writing = asyncio.create_task(writer())
    relay = start_relay(database, valkey.url, tmp_path)
    try:
        for _ in range(KILLS):
            before = await total(store, expected)
            # Killed while it works, not while it starts.
            await until(lambda before=before: more(store, expected, before), timeout_s=20, every_s=0.002)  # type: ignore[misc]
            await asyncio.sleep(chance.uniform(0, 0.02))
            relay.send_signal(signal.SIGKILL)
            relay.wait()
            relay = start_relay(database, valkey.url, tmp_path)
        stop.set()
        await writing
        await until(lambda: pending(database) == 0, timeout_s=20)
        assert {topic: await history(store, topic) for topic in expected} == expected, f"seed {seed}"
        assert all(len(states) > KILLS / TOPICS for states in expected.values())
        put(database, ("tenant:last", {"n": 1}))
        await until(lambda: pending(database) == 0, timeout_s=20)  # so it is up, and has its handlers
        relay.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(relay.wait, 10) == 0
    finally:
        stop.set()
        await writing
        if relay.poll() is None:
            relay.kill()
            relay.wait()


async def total(store: Store, topics: dict[str, list[object]]) -> int:
    return sum(await store.versions(list(topics)))


async def more(store: Store, topics: dict[str, list[object]], before: int) -> bool:
    return await total(store, topics) > before


def test_without_a_database_it_says_so_and_does_not_start(tmp_path: Path) -> None:
    relay = Running([sys.executable, "-m", "sync.outbox"], clean_environ(tmp_path))
    try:
        assert relay.process.wait(20) == 2
    finally:
        relay.close()
    assert relay.lines == [
        "planwire outbox: PLANWIRE_OUTBOX_URL is not set: the applications' database, as postgresql://user@host/name"
    ]


def test_the_commands_of_the_refused_say_so_too(tmp_path: Path) -> None:
    for environ, said in (({}, "PLANWIRE_OUTBOX_URL is not set"), ({"PLANWIRE_OUTBOX_ULR": "x"}, "did you mean")):
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli", "outbox", "list"],
            env=clean_environ(tmp_path, **environ),
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert said in done.stderr


async def test_told_to_stop_while_the_database_is_away_it_does_not_sleep_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "BACKOFF_MAX_S", 3600.0)
    relay = Relay("postgresql://nobody@127.0.0.1:1/nothing", store)
    tried = asyncio.Event()

    async def fail(database_url: str, *, autocommit: bool = False) -> Any:
        tried.set()
        raise psycopg.OperationalError("away")

    monkeypatch.setattr(relays, "connect", fail)
    monkeypatch.setattr(random, "uniform", lambda low, high: 3600.0)
    task = asyncio.create_task(relay.run())
    await tried.wait()
    await asyncio.sleep(0)
    relay.stop()
    async with asyncio.timeout(10):
        await task


# Enqueuing.


def rows(database: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute("SELECT topic, state, private, order_value, cause FROM planwire_outbox").fetchall()


async def test_every_way_to_enqueue_writes_the_same_row(database: str) -> None:
    more: dict[str, Any] = {"private": {"p": "é"}, "order": 7, "cause": {"event_type": "upgrade"}}
    dialect_url = database.replace("postgresql://planwire@/", "postgresql+psycopg://planwire@/")
    with psycopg.connect(database) as connection:
        outbox.enqueue(connection, "tenant:a", {"n": 1.5}, **more)
    async with await psycopg.AsyncConnection.connect(database) as aconnection:
        await outbox.enqueue_psycopg_async(aconnection, "tenant:a", {"n": 1.5}, **more)
    engine = sqlalchemy.create_engine(dialect_url)
    with Session(engine) as session, session.begin():
        outbox.enqueue_sqlalchemy(session, "tenant:a", {"n": 1.5}, **more)
    with engine.begin() as sconnection:
        outbox.enqueue_sqlalchemy(sconnection, "tenant:a", {"n": 1.5}, **more)
    engine.dispose()
    async_engine = create_async_engine(dialect_url)
    async with AsyncSession(async_engine) as asession, asession.begin():
        event_id = await outbox.enqueue_sqlalchemy_async(asession, "tenant:a", {"n": 1.5}, **more)
    await async_engine.dispose()
    row = ("tenant:a", {"n": 1.5}, {"p": "é"}, f"{7:020d}", {"event_type": "upgrade"})
    assert rows(database) == [row] * 5
    with psycopg.connect(database) as connection:
        ids = [one[0] for one in connection.execute("SELECT event_id FROM planwire_outbox ORDER BY id").fetchall()]
    assert len(set(ids)) == 5
    assert ids[-1] == event_id


def test_outside_a_transaction_nothing_is_enqueued(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        with pytest.raises(outbox.OutsideTransaction):
            outbox.enqueue(connection, "tenant:a", 1)
        with connection.transaction():
            outbox.enqueue(connection, "tenant:a", 2)
    engine = sqlalchemy.create_engine(
        database.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as sconnection, pytest.raises(outbox.OutsideTransaction):
        outbox.enqueue_sqlalchemy(sconnection, "tenant:a", 1)
    engine.dispose()
    assert [row[1] for row in rows(database)] == [2]


def test_what_could_not_be_published_fails_the_transaction_that_wants_it(database: str) -> None:
    with psycopg.connect(database) as connection, pytest.raises(PublishRefused):
        outbox.enqueue(connection, "nothing", 1)
    with psycopg.connect(database) as connection, pytest.raises(PublishRefused):
        outbox.enqueue(connection, "tenant:a", "x" * 40_000)


def test_the_table_is_printed_for_migrations() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "clients" / "python")}
    printed = subprocess.run(
        [sys.executable, "-m", "planwire_client.outbox"], env=environ, capture_output=True, text=True, check=True
    )
    assert printed.stdout == outbox.DDL


def test_several_topics_in_one_transaction_do_not_take_long(database: str) -> None:
    began = time.monotonic()
    put(database, *((f"tenant:t{n}", {"n": n}) for n in range(300)))
    assert time.monotonic() - began < 5
    assert pending(database) == 300


def refuse(database: str, *topics: str) -> list[int]:
    """Rows that were refused, one for each topic; returns their ids."""
    put(database, *((topic, {"of": topic}) for topic in topics))
    with psycopg.connect(database) as connection:
        found = connection.execute("UPDATE planwire_outbox SET refused = 'too large' RETURNING id, topic").fetchall()
    ids = {topic: row_id for row_id, topic in found}
    return [ids[topic] for topic in topics]


async def test_refused_rows_are_listed_and_tried_again_and_dropped(
    database: str, store: Store, store_url: str, tmp_path: Path
) -> None:
    good, superseded, bad = refuse(database, "tenant:a", "tenant:b", "tenant:c")
    await until(lambda: _commit(store, "tenant:b"))
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE planwire_outbox SET topic = 'nothing' WHERE id = %s", [bad])

    async def command(*arguments: str, program: tuple[str, ...] = ("gateway.cli", "outbox")) -> tuple[int, str, str]:
        environ = clean_environ(tmp_path, PLANWIRE_OUTBOX_URL=database, PLANWIRE_REDIS_URL=store_url)
        module, *first = program
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *first, *arguments, cwd=ROOT, env=environ,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    async with relaying(database, store):
        status, output, _ = await command("list", "--json")
        listed = [json.loads(line) for line in output.splitlines()]
        assert (status, [row["id"] for row in listed]) == (0, [good, superseded, bad])
        assert [bool(row.get("newer")) for row in listed] == [False, True, False]
        assert {row["reason"] for row in listed} == {"too large"}
        status, output, errors = await command("retry", "--all", program=("sync.outbox",))
        assert status == 1
        assert f"{superseded}  tenant:b  left alone: committed since" in errors
        assert f"{good}  tenant:a  tried again" in output
        await until(lambda: history_is(store, "tenant:a", [{"of": "tenant:a"}]))
        assert await history(store, "tenant:b") == [{"by": "somebody"}]
        # What is still wrong is refused again, and says why now.
        await until(lambda: pending(database) == 0)
        assert "'nothing' is not a topic" in (await command("list"))[1]
        assert (await command("retry", str(good)))[::2] == (1, f"{good}  no refused row has this id\n")
        assert (await command("retry", "--force", str(superseded)))[0] == 0
        await until(lambda: history_is(store, "tenant:b", [{"by": "somebody"}, {"of": "tenant:b"}]))
        dropped = await command("drop", str(bad), "--reason", "it names nothing")
        assert dropped[:2] == (0, f"{bad}  nothing  dropped\n")
        assert "it names nothing" in dropped[2]
        assert (await command("drop", str(bad), "--reason", "again"))[0] == 1
        assert (await command("list"))[:2] == (0, "")


async def _commit(store: Store, topic: str) -> bool:
    """Commit something later than whatever is enqueued, by the store's clock."""
    await asyncio.sleep(0.01)
    return (await store.commit(Change(topic, b'{"by":"somebody"}'))).version > 0


async def history_is(store: Store, topic: str, states: list[Any]) -> bool:
    return await history(store, topic) == states
