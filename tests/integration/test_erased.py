"""A topic that was erased: whoever watches it is told null and then that it is gone, and so is whoever comes back."""

from __future__ import annotations

import httpx2
import orjson

from sync.store.models import Change
from sync.store.store import Store
from tests.support.gateway import environment, open_client, run_gateway, token
from tests.support.wait import until

TOPIC, OTHER = "tenant:acme", "tenant:other"


async def erase(store: Store) -> int:
    cause = orjson.dumps({"source": "operator", "event_type": "tenant.erased", "reason": "asked for"})
    return (await store.commit(Change(TOPIC, b"null", cause=cause, erases=True))).version


async def test_every_reader_is_told_null_and_then_gone(store_url: str, store: Store) -> None:
    for topic in (TOPIC, OTHER):
        await store.commit(Change(topic, b'{"plan":{"key":"pro"}}'))
    async with run_gateway(environment(store_url)) as gateway, open_client(gateway, TOPIC, OTHER) as client:
        for _ in (TOPIC, OTHER):
            await client.until("snapshot")
        version = await erase(store)
        frame = await client.until("snapshot")
        assert (frame["topic"], frame["version"], frame["state"]) == (TOPIC, version, None)
        assert await client.receive() == {"type": "gone", "topic": TOPIC, "reason": "erased"}
        assert gateway.node.metrics.gone == 1

        # The socket goes on with what is left, and the topic that has nobody any more is no burden.
        await store.commit(Change(OTHER, b'{"plan":{"key":"free"}}'))
        assert (await client.receive())["topic"] == OTHER
        live = gateway.node.hub.topic(TOPIC)
        assert live is None or live.subscriptions == []

        for held, answer in ((0, "snapshot"), (version, "current"), (version - 1, "snapshot")):
            await client.send("subscribe", topic=TOPIC, version=held)
            frame = await client.receive()
            assert (frame["type"], frame["version"], frame.get("state")) == (answer, version, None)
            assert await client.receive() == {"type": "gone", "topic": TOPIC, "reason": "erased"}

        async with httpx2.AsyncClient(base_url=gateway.url, headers={"Authorization": f"Bearer {token()}"}) as http:
            answer_ = (await http.get(f"/v1/state/{TOPIC}")).json()
            assert (answer_["version"], answer_["state"]) == (version, None)
            for last_id, kind in (("0", "snapshot"), (str(version), "current")):
                stream = (await http.get(f"/v1/state/{TOPIC}/events", headers={"Last-Event-ID": last_id})).text
                names = [line[7:] for line in stream.splitlines() if line.startswith("event: ")]
                assert [name for name in names if name != "heartbeat"] == [kind, "gone"]

        # Published anew it is a topic like any other.
        anew = await store.commit(Change(TOPIC, b'{"plan":{"key":"pro"}}'))
        # Not before this gateway has heard of it: the topic is live here still.
        await until(lambda: (live := gateway.node.hub.topic(TOPIC)) is None or live.version == anew.version)
        await client.send("subscribe", topic=TOPIC, version=version)
        assert (await client.receive())["state"] == {"plan": {"key": "pro"}}
        again = (await store.commit(Change(TOPIC, b'{"plan":{"key":"free"}}'))).version
        assert (await client.receive())["version"] == again


async def test_null_that_somebody_published_is_a_state_like_any_other(store_url: str, store: Store) -> None:
    await store.commit(Change(TOPIC, b'{"plan":{"key":"pro"}}'))
    async with run_gateway(environment(store_url)) as gateway, open_client(gateway, TOPIC) as client:
        await client.until("snapshot")
        # Only an erasure erases, whatever a publisher's cause says.
        cause = orjson.dumps({"source": "backend", "event_type": "tenant.erased"})
        await store.commit(Change(TOPIC, b"null", cause=cause))
        assert (await client.receive())["state"] is None
        last = (await store.commit(Change(TOPIC, b'{"plan":{"key":"free"}}'))).version
        assert (await client.receive())["version"] == last
