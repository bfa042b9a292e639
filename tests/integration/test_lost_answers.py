"""A store that did what it was told, and whose answer was lost on its way: what is sent again counts once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError

from planwire_client.core import commit
from sync.billing.catalog.catalog import parse
from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.providers.paddle.webhooks import PaddleWebhooks
from sync.billing.services.wiring import BillingServices
from sync.store import command_pipeline
from sync.store.command_pipeline import Script
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change, Committed, StoreError, Verdict
from sync.store.redis.connect import connect
from sync.store.redis.retry import exchange
from sync.store.store import Store
from sync.usage.calls import Answer, Call, UsageCalls
from sync.usage.meters import meters_of
from tests.support.bodies import webhook
from tests.support.gateway import environment, open_client, run_gateway
from tests.support.paddle import price_id
from tests.support.proxy import Proxy, run_proxy
from tests.support.servers import Server, start_valkey
from tests.support.wait import until

TOPIC = "tenant:acme"
CREDITS = meters_of(
    parse("""
[plans.free]
name = "Free"
rank = 0
default = true
limits = { ai = 100 }

[meters.ai]
kind = "credits"
limit = "ai"
""")
)


@asynccontextmanager
async def behind_a_proxy() -> AsyncIterator[tuple[Store, Store, Proxy]]:
    """A store, the same store behind a proxy, and the proxy."""
    with start_valkey(tcp=True) as server:
        async with run_proxy("127.0.0.1", server.port) as proxy:
            direct, proxied = connect(server.url).store, connect(f"redis://127.0.0.1:{proxy.port}").store
            try:
                yield direct, proxied, proxy
            finally:
                await proxied.aclose()
                await direct.aclose()


async def losing_the_answer(proxy: Proxy, happened: Callable[[], Awaitable[object]], call: Awaitable[Any]) -> Any:
    """What `call` returns whose first answer is thrown away, and its connection cut, once `happened`."""
    proxy.swallow(to_client=True)
    task = asyncio.ensure_future(call)
    await until(happened)
    accepted = proxy.accepted
    proxy.heal()
    proxy.reset()
    answer = await task
    assert proxy.accepted > accepted, "it was not sent again"
    return answer


@pytest.mark.parametrize("way", ["commit", "commit_many", "committer"])
async def test_a_change_bound_to_a_version_is_not_told_a_conflict_with_itself(way: str) -> None:
    async with behind_a_proxy() as (direct, proxied, proxy):
        services = BillingServices(proxied, CatalogWatcher(EXAMPLE), {})

        async def send(change: Change) -> Committed | StoreError:
            if way == "commit_many":
                return (await proxied.commit_many([change]))[0]
            return await (services.committer.send(change) if way == "committer" else proxied.commit(change))

        first = await send(Change(TOPIC, b'{"n":1}', if_version=0))
        assert isinstance(first, Committed)
        assert first.verdict is Verdict.APPLIED

        async def moved() -> bool:
            return (await direct.versions([TOPIC]))[0] > first.version

        second = await losing_the_answer(proxy, moved, send(Change(TOPIC, b'{"n":2}', if_version=first.version)))
        assert (second.verdict, second.version) == (Verdict.APPLIED, (await direct.versions([TOPIC]))[0])
        assert [entry.state for entry in await direct.log(TOPIC)] == [b'{"n":2}', b'{"n":1}']
        assert await send(Change(TOPIC, b'{"n":3}', if_version=first.version)) == Committed(
            Verdict.CONFLICT, second.version, second.rev
        )


async def test_nor_by_a_store_that_was_started_anew_since_and_has_forgotten_the_script(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Applied, the answer lost; what is sent again meets a server that does not know the script."""
    lost = True

    async def losing(redis: Any, commands: Any) -> list[Any]:
        nonlocal lost
        replies: list[Any] = await exchange(redis, commands)
        if lost:
            lost, replies = False, [NoScriptError("No matching script") for _ in replies]
        return replies

    await store.commit(Change("tenant:other", b"1"))  # so that the script is known
    monkeypatch.setattr("sync.store.command_pipeline.exchange", losing)
    (outcome,) = await store.commit_many([Change(TOPIC, b'{"n":1}', if_version=0)])
    assert not lost
    assert isinstance(outcome, Committed)
    assert outcome.verdict is Verdict.APPLIED


@pytest.mark.parametrize("step", ["stored", "committed", "ended"])
async def test_an_event_is_processed_once_whichever_answer_was_lost(step: str, tmp_path: Path) -> None:
    script = {
        "stored": Script.load("sync.billing.storage", "inbox_put").sha,
        "committed": commit.SHA,
        "ended": Script.load("sync.billing.storage", "inbox_finish").sha,
    }[step]
    async with behind_a_proxy() as (direct, proxied, proxy):
        services = BillingServices(proxied, CatalogWatcher(EXAMPLE), {"paddle": PaddleWebhooks()})
        items = [(price_id("pro"), 1)]
        await services.ingest.receive(services.adapters["paddle"], webhook(1, items=items), "live")
        lost = asyncio.Event()

        async def is_done() -> bool:
            event = "pw:{inbox/live}:event:evt_2"
            redis: Any = direct.redis
            match step:
                case "stored":
                    return bool(await redis.exists(event))
                case "committed":
                    return len(await direct.log(TOPIC)) == 2
                case _:
                    return bool(await redis.hget(event, "status") == b"done")

        # The answers before the one that is to be lost must pass.
        async def losing(redis: Any, commands: Any) -> Any:
            if not lost.is_set() and any(script in arguments for arguments, _ in commands):
                proxy.swallow(to_client=True)
                lost.set()
            return await exchange(redis, commands)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("sync.store.command_pipeline.exchange", losing)
            body = webhook(2, event_id="evt_2", items=[(price_id("pro"), 2)])
            task = asyncio.ensure_future(services.ingest.receive(services.adapters["paddle"], body, "live"))
            await lost.wait()
            await until(is_done)
            proxy.heal()
            proxy.reset()
            receipt = await task
        assert (receipt.outcome, receipt.version) == ("applied", (await direct.versions([TOPIC]))[0])
        assert len(await direct.log(TOPIC)) == 2
        assert await services.environment("live").inbox.counts() == (0, 0)
        record = await services.environment("live").inbox.read("evt_2")
        assert record is not None
        assert record.status == "done"
        stream: Any = await direct.redis.xrange(keys.events(TOPIC))
        logged = [fields[b"outcome"] for _, fields in stream if fields[b"event_id"] == b"evt_2"]
        assert logged == [b"applied"]


async def test_a_batch_whose_time_runs_out_as_it_is_sent_waits_for_no_answer(
    valkey: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = AbstractConnection._send_packed_command

    async def sent_late(connection: AbstractConnection, command: list[bytes]) -> None:
        await send(connection, command)
        stand_still()

    def stand_still() -> None:
        time.sleep(0.4)

    await store.read(TOPIC)  # it is connected
    monkeypatch.setattr(command_pipeline, "REPLIES_TIMEOUT_S", 0.2)
    monkeypatch.setattr(AbstractConnection, "_send_packed_command", sent_late)
    valkey.pause()
    asking = command_pipeline.CommandPipeline(store)
    asking.command("GET", "x")
    with pytest.raises(StoreError):
        async with asyncio.timeout(20):
            await asking.run()


async def test_what_a_gateway_gives_back_to_a_store_is_compared_even_if_saying_so_fails_first(
    store: Store, store_url: str
) -> None:
    version = (await store.commit(Change(TOPIC, b'{"plan":{"key":"pro"}}', b'{"facts":1}'))).version
    async with run_gateway(environment(store_url, SWEEP_S="0.2")) as gateway, open_client(gateway, TOPIC) as client:
        await client.until("snapshot")
        want, failures = gateway.node.store.want_reconcile, 2

        async def fail_first(topics: Any) -> None:
            nonlocal failures
            if failures:
                failures -= 1
                raise StoreError("gone")
            await want(topics)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(gateway.node.store, "want_reconcile", fail_first)
            redis: Any = store.redis
            await redis.delete(keys.snap(TOPIC), keys.log(TOPIC))
            await until(lambda: redis.zscore(keys.reconcile, TOPIC))
        assert (await store.versions([TOPIC])) == [version]
        assert failures == 0


@pytest.mark.parametrize("operation", ["consume", "release", "adjust", "grant"])
async def test_a_call_about_usage_without_a_key_counts_once(operation: Any) -> None:
    """The page shows the count, and the customer pays for it."""
    async with behind_a_proxy() as (direct, proxied, proxy):
        ours, theirs = (UsageCalls(store, lambda: CREDITS) for store in (proxied, direct))

        async def remaining() -> int:
            (found,) = await theirs.run([Call(TOPIC, "adjust", "ai", 0, id="by", reason="look")])
            assert isinstance(found, Answer)
            return found.remaining

        await ours.run([Call(TOPIC, "consume", "ai", 50)])
        before = await remaining()
        assert before == 50

        async def moved() -> bool:
            return await remaining() != before

        of = {"adjust": "by", "grant": "goodwill"}.get(operation, "")
        call = Call(TOPIC, operation, "ai", 7, id=of)
        (found,) = await losing_the_answer(proxy, moved, ours.run([call]))
        assert found.is_repeated
        after = before - 7 if operation in ("consume", "adjust") else before + 7
        assert (await remaining(), found.remaining) == (after, after)
