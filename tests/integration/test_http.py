"""The HTTP API on a real server and a real store: reading, waiting, streaming, publishing, revoking, health."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway import control, state_routes
from sync.state.keys import DEFAULT_KEYS as keys
from sync.state.store import Change, Store
from tests.support.gateway import PUBLISH_KEY, Running, environment, forged, run_gateway, token
from tests.support.processes import clean_environ
from tests.support.processes import running as running_process
from tests.support.servers import Server, free_port, start_valkey
from tests.support.wait import until

TOPIC = "tenant:acme"
DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
async def running(store_url: str) -> AsyncIterator[Running]:
    async with run_gateway(environment(store_url, ALLOWED_ORIGINS="https://app.example.com")) as gateway:
        yield gateway


@asynccontextmanager
async def http(running: Running, **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=10, trust_env=False) as client:
        yield client


@asynccontextmanager
async def reader(running: Running, *topics: str, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    async with http(running, Authorization=f"Bearer {token(*topics, **options)}") as client:
        yield client


@asynccontextmanager
async def publisher(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    async with http(running, Authorization=f"Bearer {PUBLISH_KEY}") as client:
        yield client


async def publish(running: Running, state: object, topic: str = TOPIC, **more: object) -> httpx2.Response:
    async with publisher(running) as client:
        return await client.post("/v1/publish", json={"topic": topic, "state": state, **more})


def problem_of(response: httpx2.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    return str(document["code"])


EVENT = b'{"specversion":"1.0","id":"e","source":"s","type":"t","subject":"tenant:a","data":{"a":%b}}'


class TestState:
    async def test_a_topic_without_state(self, running: Running) -> None:
        async with reader(running) as client:
            response = await client.get(f"/v1/state/{TOPIC}")
            assert response.json() == {"topic": TOPIC, "version": 0, "state": None}
            again = await client.get(f"/v1/state/{TOPIC}", headers={"If-None-Match": response.headers["etag"]})
            assert again.status_code == 200

    async def test_what_was_published_is_read_with_its_version(self, running: Running) -> None:
        published = await publish(running, {"plan": "pro"}, event_id="e1")
        version = published.json()["version"]
        async with reader(running, TOPIC) as client:
            response = await client.get(f"/v1/state/{TOPIC}")
        body = response.json()
        assert (body["version"], body["state"], body["cause"]["event_id"]) == (version, {"plan": "pro"}, "e1")
        assert body["cause"]["source"] == "tests"
        assert response.headers["etag"] == f'"{version}"'
        assert response.headers["planwire-version"] == str(version) == published.headers["planwire-version"]

    async def test_topics_of_another_environment(self, running: Running) -> None:
        await publish(running, 1, "sandbox/tenant:acme")
        async with reader(running, "sandbox/tenant:acme") as client:
            for path in ("sandbox/tenant:acme", "sandbox%2Ftenant%3Aacme"):
                response = await client.get(f"/v1/state/{path}")
                assert (response.json()["topic"], response.json()["state"]) == ("sandbox/tenant:acme", 1)

    async def test_not_modified(self, running: Running) -> None:
        await publish(running, 1)
        async with reader(running) as client:
            tag = (await client.get(f"/v1/state/{TOPIC}")).headers["etag"]
            for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
                response = await client.get(f"/v1/state/{TOPIC}", headers={"If-None-Match": given})
                assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", tag)
            await publish(running, 2)
            assert (await client.get(f"/v1/state/{TOPIC}", headers={"If-None-Match": tag})).json()["state"] == 2

    async def test_the_private_part_needs_its_scope(self, running: Running) -> None:
        await publish(running, 1, private={"ids": ["sub_1"]})
        async with reader(running, TOPIC) as client:
            plain = await client.get(f"/v1/state/{TOPIC}")
        async with reader(running, TOPIC, scope=["read", "private"]) as client:
            private = await client.get(f"/v1/state/{TOPIC}")
            assert private.json()["private"] == {"ids": ["sub_1"]}
            cross = await client.get(f"/v1/state/{TOPIC}", headers={"If-None-Match": plain.headers["etag"]})
            assert cross.status_code == 200
        assert b"sub_1" not in plain.content
        assert "Authorization" in plain.headers["vary"]

    @pytest.mark.parametrize(
        ("path", "code"),
        [("acme", "topic_invalid"), ("live/tenant:acme", "topic_invalid"),
         ("tenant:acme?min_version=x", "request_invalid"),
         ("tenant:acme?min_version=-1", "request_invalid"), ("tenant:acme?wait_ms=1.5", "request_invalid"),
         ("tenant:acme?min_version=99999999999999999", "request_invalid"), ("a/b/tenant:acme/events", "topic_invalid")],
    )  # fmt: skip
    async def test_bad_requests(self, running: Running, path: str, code: str) -> None:
        async with reader(running) as client:
            assert problem_of(await client.get(f"/v1/state/{path}"), 422) == code


class TestTokens:
    @pytest.mark.parametrize("suffix", ["", "/events"])
    async def test_who_may_not_read(self, running: Running, suffix: str) -> None:
        path = f"/v1/state/{TOPIC}{suffix}"
        async with http(running) as client:
            response = await client.get(path)
            assert problem_of(response, 401) == "token_missing"
            assert response.headers["www-authenticate"] == "Bearer"
            for jwt, status, code in (
                ("nonsense", 401, "token_malformed"),
                (forged(TOPIC), 401, "token_signature"),
                (token("tenant:other"), 403, "topic_forbidden"),
                (token("*", scope=["console"]), 403, "topic_forbidden"),
            ):
                response = await client.get(path, headers={"Authorization": f"Bearer {jwt}"})
                assert problem_of(response, status) == code
                assert running.node.metrics.auth_failures[code]
            basic = await client.get(path, headers={"Authorization": f"Basic {token(TOPIC)}"})
            assert problem_of(basic, 401) == "token_missing"

    async def test_probes_are_read_by_nobody(self, running: Running) -> None:
        async with reader(running) as client:
            assert problem_of(await client.get("/v1/state/probe:x"), 403) == "topic_forbidden"

    async def test_an_ended_token(self, running: Running) -> None:
        ended = token(TOPIC, ttl_s=1)
        async with http(running, Authorization=f"Bearer {ended}") as client:

            async def is_refused() -> bool:
                response = await client.get(f"/v1/state/{TOPIC}")
                return response.status_code == 401 and response.json()["code"] == "token_expired"

            await until(is_refused)


class TestWaiting:
    async def test_it_waits_until_the_version_is_there(self, running: Running, store: Store) -> None:
        first = (await store.commit(Change(TOPIC, b"1"))).version
        async with reader(running) as client:
            waiting = asyncio.create_task(client.get(f"/v1/state/{TOPIC}?min_version={first + 1}&wait_ms=8000"))
            await until(lambda: running.node.metrics.streams)
            second = (await store.commit(Change(TOPIC, b"2"))).version
            started = time.monotonic()
            response = await waiting
        assert (response.json()["version"], response.json()["state"]) == (second, 2)
        assert time.monotonic() - started < 6
        assert running.node.metrics.streams == 0

    async def test_it_does_not_wait_for_what_is_there(self, running: Running, store: Store) -> None:
        version = (await store.commit(Change(TOPIC, b"1"))).version
        async with reader(running) as client:
            started = time.monotonic()
            response = await client.get(f"/v1/state/{TOPIC}?min_version={version}&wait_ms=8000")
        assert (response.status_code, time.monotonic() - started < 6) == (200, True)
        assert running.node.metrics.streams_opened == 0

    @pytest.mark.parametrize("wait", ["", "&wait_ms=100"])
    async def test_behind(self, running: Running, store: Store, wait: str) -> None:
        version = (await store.commit(Change(TOPIC, b"1"))).version
        async with reader(running) as client:
            response = await client.get(f"/v1/state/{TOPIC}?min_version={version + 1}{wait}")
        assert problem_of(response, 504) == "behind"
        assert response.json()["version"] == version

    async def test_private_parts_arrive_after_waiting_too(self, running: Running, store: Store) -> None:
        async with reader(running, scope=["read", "private"]) as client:
            waiting = asyncio.create_task(client.get(f"/v1/state/{TOPIC}?min_version=1&wait_ms=8000"))
            await until(lambda: running.node.metrics.streams)
            await store.commit(Change(TOPIC, b"1", private=b'{"x":1}'))
            assert (await waiting).json()["private"] == {"x": 1}

    @pytest.mark.parametrize("end", ["revoked", "expired"])
    async def test_a_token_that_ends_during_the_wait_reads_nothing(
        self, running: Running, store: Store, end: str
    ) -> None:
        async with reader(running, ttl_s=2 if end == "expired" else 600) as client, publisher(running) as keyed:
            began = time.time()
            waiting = asyncio.create_task(client.get(f"/v1/state/{TOPIC}?min_version=1&wait_ms=8000"))
            # Done already where the machine stood still until the token had ended.
            await until(lambda: running.node.metrics.streams or waiting.done())
            if end == "revoked":
                assert (await keyed.post("/v1/sessions/revoke", json={"sub": "tester"})).status_code == 200
                await until(lambda: len(running.node.auth.revocations) > 0)
            else:
                await until(lambda: time.time() > began + 2.1)
            await store.commit(Change(TOPIC, b"1"))
            assert problem_of(await waiting, 401) == f"token_{end}"

    async def test_a_wait_is_cut_to_the_limit(self, store_url: str) -> None:
        async with run_gateway(environment(store_url, WAIT_MAX_MS="100")) as running, reader(running) as client:
            started = time.monotonic()
            response = await client.get(f"/v1/state/{TOPIC}?min_version=1&wait_ms=9000000")
            assert problem_of(response, 504) == "behind"
            assert time.monotonic() - started < 5

    async def test_waiting_reads_are_limited(self, store_url: str) -> None:
        async with run_gateway(environment(store_url, STREAMS_PER_SUBJECT="1")) as running, reader(running) as client:
            url = f"/v1/state/{TOPIC}?min_version=1&wait_ms=8000"
            waiting = asyncio.create_task(client.get(url))
            await until(lambda: running.node.metrics.streams)
            refused = await client.get(url)
            assert problem_of(refused, 429) == "too_many_streams"
            assert refused.headers["retry-after"]
            async with (
                reader(running, sub="another") as other,
                other.stream("GET", f"/v1/state/{TOPIC}/events") as open_,
            ):
                assert open_.status_code == 200
            await publish(running, 1)
            assert (await waiting).status_code == 200


@dataclass
class Event:
    """One server-sent event."""

    name: str
    data: dict[str, Any]
    id: str | None


class Events:
    """Parses an event stream, as a browser does."""

    def __init__(self, response: httpx2.Response) -> None:
        self._lines = response.aiter_lines()
        self.comments: list[str] = []
        self.retry: int | None = None

    async def next(self, name: str | None = None) -> Event | None:
        """Return the next event (of that name, where one is given), or None at the end."""
        async with asyncio.timeout(20):
            fields: dict[str, str] = {}
            async for line in self._lines:
                if line.startswith(":"):
                    self.comments.append(line[1:].strip())
                elif line:
                    field, _, value = line.partition(":")
                    fields[field] = value.removeprefix(" ")
                else:
                    self.retry = int(fields.pop("retry", self.retry or 0))
                    if fields and name in (None, fields["event"]):
                        return Event(fields["event"], json.loads(fields["data"]), fields.get("id"))
                    fields = {}
            return None


@asynccontextmanager
async def events(
    running: Running, last: str | None = None, topic: str = TOPIC, **options: Any
) -> AsyncIterator[Events]:
    headers = {} if last is None else {"Last-Event-ID": last}
    path = f"/v1/state/{topic}/events"
    async with (
        reader(running, topic, **options) as client,
        client.stream("GET", path, headers=headers) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Events(response)


class TestEvents:
    async def test_the_state_now_and_every_change(self, running: Running, store: Store) -> None:
        first = (await store.commit(Change(TOPIC, b'{"n":1}', cause=b'{"event_id":"e1"}'))).version
        async with events(running) as stream:
            heartbeat = await stream.next()
            assert heartbeat is not None
            assert (heartbeat.name, heartbeat.data["fresh"]) == ("heartbeat", True)
            assert heartbeat.data["verified_at"] <= heartbeat.data["at"]
            assert (stream.comments, stream.retry) == (["planwire"], 500)
            event = await stream.next()
            assert event == Event(
                "snapshot",
                {"type": "snapshot", "topic": TOPIC, "version": first, "state": {"n": 1}, "cause": {"event_id": "e1"}},
                str(first),
            )
            second = (await store.commit(Change(TOPIC, b'{"n":2}'))).version
            event = await stream.next()
            assert event is not None
            assert (event.name, event.id, event.data["state"]) == ("snapshot", str(second), {"n": 2})
        await until(lambda: running.node.metrics.streams == 0)

    async def test_a_topic_without_state_is_a_snapshot_too(self, running: Running) -> None:
        async with events(running, topic="sandbox/tenant:new") as stream:
            event = await stream.next("snapshot")
            assert event is not None
            assert (event.id, event.data["state"], event.data["topic"]) == ("0", None, "sandbox/tenant:new")

    async def test_who_holds_the_newest_is_told_so(self, running: Running, store: Store) -> None:
        version = (await store.commit(Change(TOPIC, b"1"))).version
        async with events(running, last=str(version)) as stream:
            await stream.next("heartbeat")
            event = await stream.next()
            assert event == Event("current", {"type": "current", "topic": TOPIC, "version": version}, None)
            later = (await store.commit(Change(TOPIC, b"2"))).version
            event = await stream.next()
            assert event is not None
            assert event.id == str(later)

    @pytest.mark.parametrize("last", ["1", "nonsense", "-5", ""])
    async def test_who_holds_something_older_or_odd_gets_the_newest(
        self, running: Running, store: Store, last: str
    ) -> None:
        version = (await store.commit(Change(TOPIC, b"1"))).version
        async with events(running, last=last) as stream:
            event = await stream.next("snapshot")
            assert event is not None
            assert (event.id, "reset" in event.data) == (str(version), False)

    async def test_who_holds_what_the_store_lost_is_reset_after_a_sweep(self, store_url: str, store: Store) -> None:
        version = (await store.commit(Change(TOPIC, b"1"))).version
        async with (
            run_gateway(environment(store_url, SWEEP_S="0.5")) as running,
            events(running, last=str(version + 10**9)) as stream,
        ):
            event = await stream.next("snapshot")
            assert event is not None
            assert (event.id, event.data["reset"]) == (str(version), True)

    async def test_heartbeats_come_by_the_clock(self, store_url: str) -> None:
        async with run_gateway(environment(store_url, HEARTBEAT_S="0.2")) as running, events(running) as stream:
            beats = [await stream.next("heartbeat") for _ in range(3)]
            assert all(beat is not None and beat.data["fresh"] for beat in beats)

    async def test_they_come_as_often_as_readers_count_on_however_rare_a_sockets_are(
        self, store_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The browser's `fallback` takes 2.5 times 15 s of silence for the end of a stream."""
        assert state_routes.STREAM_HEARTBEAT_MAX_S == 15
        monkeypatch.setattr(state_routes, "STREAM_HEARTBEAT_MAX_S", 0.2)
        async with run_gateway(environment(store_url, HEARTBEAT_S="600")) as running, events(running) as stream:
            async with asyncio.timeout(20):
                for _ in range(3):
                    assert await stream.next("heartbeat") is not None

    async def test_streams_of_all_together_are_limited(self, store_url: str) -> None:
        async with (
            run_gateway(environment(store_url, STREAMS_MAX="1")) as running,
            events(running, sub="first") as stream,
            reader(running, sub="second") as client,
        ):
            assert await stream.next("snapshot")
            for path in (f"/v1/state/{TOPIC}/events", f"/v1/state/{TOPIC}?min_version=1&wait_ms=1000"):
                refused = await client.get(path)
                assert problem_of(refused, 429) == "too_many_streams"
                assert refused.headers["retry-after"]

    async def test_losing_the_bus_is_told_at_once(self, valkey: Server) -> None:
        async def told(stream: Events, fresh: bool) -> None:
            while (event := await stream.next("heartbeat")) is not None and event.data["fresh"] is not fresh:
                pass
            assert event is not None

        environ = environment(valkey.url, PROBE_S="0.5", HEARTBEAT_S="60")
        async with run_gateway(environ) as running, events(running) as stream:
            await told(stream, True)
            valkey.pause()
            try:
                await told(stream, False)
            finally:
                valkey.resume()
            await told(stream, True)

    async def test_the_tokens_end_is_the_streams(self, running: Running) -> None:
        async with events(running, ttl_s=3) as stream:
            event = await stream.next("gone")
            assert event is not None
            assert event.data == {"type": "gone", "topic": TOPIC, "reason": "expired"}
            assert await stream.next() is None

    async def test_a_revocation_ends_it_within_a_second(self, running: Running) -> None:
        took: list[float] = []
        # More than once only where the machine has stalled: who is late is so each time.
        while not took or (took[-1] >= 1 and len(took) < 3):
            sub = f"u{len(took)}"
            async with events(running, sub=sub) as stream, publisher(running) as client:
                await stream.next("snapshot")
                response = await client.post("/v1/sessions/revoke", json={"sub": sub})
                assert response.status_code == 200
                started = time.monotonic()
                event = await stream.next("gone")
                assert event is not None
                assert event.data["reason"] == "revoked"
                took.append(time.monotonic() - started)
        assert min(took) < 1

    async def test_without_the_store_it_does_not_begin(self, valkey: Server) -> None:
        async with run_gateway(environment(valkey.url)) as running, reader(running) as client:
            valkey.kill()
            response = await client.get(f"/v1/state/{TOPIC}/events")
            assert problem_of(response, 503) == "store_unavailable"
            valkey.start()


class TestStopping:
    async def test_a_stream_ends_with_a_bye_when_the_process_does(self, store_url: str, tmp_path: Path) -> None:
        port = free_port()
        more = environment(store_url, PORT=str(port), DRAIN_S="2", RECONNECT_MIN_MS="700")
        with running_process([sys.executable, "-m", "gateway.server"], clean_environ(tmp_path, **more)) as process:
            url = f"http://127.0.0.1:{port}"
            headers = {"Authorization": f"Bearer {token()}"}
            async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=10, trust_env=False) as client:

                async def is_ready() -> bool:
                    try:
                        return (await client.get("/readyz")).status_code == 200
                    except httpx2.ConnectError:
                        return False

                await until(is_ready, timeout_s=15)
                async with client.stream("GET", f"/v1/state/{TOPIC}/events") as response:
                    stream = Events(response)
                    await stream.next("snapshot")
                    process.process.terminate()
                    event = await stream.next("bye")
                    assert event is not None
                    assert event.data == {"type": "bye", "reconnect_ms": 700}
                    assert stream.retry == 700
                    assert await stream.next() is None
            await until(lambda: process.status() is not None, timeout_s=10)

    async def test_a_drain_waits_for_streams_without_any_socket(self, store_url: str) -> None:
        async with run_gateway(environment(store_url, DRAIN_S="3")) as running, events(running) as stream:
            await stream.next("snapshot")
            started = time.monotonic()
            await running.node.pulse.drain(60)  # by far longer than the stream takes
            assert running.node.metrics.streams == 0
            assert time.monotonic() - started < 30
            assert await stream.next("bye") is not None

    async def test_a_drain_leaves_what_does_not_end_in_time(self, running: Running) -> None:
        running.node.metrics.streams += 1
        started = time.monotonic()
        await running.node.pulse.drain(0.3)
        assert 0.3 <= time.monotonic() - started < 5
        running.node.metrics.streams -= 1


class TestPublish:
    async def test_the_five_verdicts(self, running: Running) -> None:
        first = await publish(running, 1, event_id="e1", order=5)
        version = first.json()["version"]
        assert first.json() == {"topic": TOPIC, "verdict": "applied", "version": version}
        for verdict, state, more in (
            ("duplicate", 2, {"event_id": "e1"}),
            ("stale", 3, {"order": 5}),
            ("unchanged", 1, {}),
        ):
            response = await publish(running, state, **more)
            assert response.json() == {"topic": TOPIC, "verdict": verdict, "version": version}
        conflict = await publish(running, 4, if_version=version - 1)
        assert problem_of(conflict, 409) == "conflict"
        assert (conflict.json()["version"], conflict.json()["verdict"]) == (version, "conflict")
        assert (await publish(running, 5, if_version=version)).json()["verdict"] == "applied"
        assert dict(running.node.metrics.verdicts) == {
            "applied": 2, "duplicate": 1, "stale": 1, "unchanged": 1, "conflict": 1,
        }  # fmt: skip

    async def test_cloud_events(self, running: Running, store: Store) -> None:
        event = {"specversion": "1.0", "id": "e1", "source": "/app", "type": "x", "subject": TOPIC, "data": {"a": 1}}
        async with publisher(running) as client:
            first = await client.post(
                "/v1/publish",
                content=json.dumps(event),
                headers={"Content-Type": "application/cloudevents+json; charset=utf-8"},
            )
            again = await client.post("/v1/publish", json={**event, "data": {"a": 2}})
            other = await client.post("/v1/publish", json={**event, "source": "/b", "data": {"a": 2}})
        verdicts = [response.json()["verdict"] for response in (first, again, other)]
        assert verdicts == ["applied", "duplicate", "applied"]
        assert (await store.read(TOPIC)).state == b'{"a":2}'

    async def test_larger_states_are_announced_with_a_patch(self, running: Running, store: Store) -> None:
        pubsub = store.redis.pubsub()
        state = {f"feature{n}": True for n in range(90)}
        await publish(running, state)
        await pubsub.subscribe("pw:{tenant:acme}")
        assert (await until(lambda: pubsub.get_message(timeout=0.1)))["type"] == "subscribe"
        await publish(running, {**state, "feature7": False})
        try:
            message = await until(lambda: pubsub.get_message(ignore_subscribe_messages=True, timeout=0.1), timeout_s=20)
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]
        assert b'{"feature7":false}' in message["data"]

    async def test_keys(self, running: Running) -> None:
        async with http(running) as client:
            for headers, code in (
                ({}, "key_missing"),
                ({"Authorization": "Bearer wrong"}, "key_invalid"),
                ({"Authorization": f"Bearer {token()}"}, "key_invalid"),
            ):
                for path in ("/v1/publish", "/v1/publish/batch", "/v1/sessions/revoke"):
                    response = await client.post(path, json={}, headers=headers)
                    assert problem_of(response, 401) == code

    @pytest.mark.parametrize(
        ("content", "kind", "status", "code"),
        [
            (b"{", "application/json", 400, "json_invalid"),
            (b"\xff", "application/json", 400, "json_invalid"),
            (b'{"topic":"tenant:a","state":NaN}', "application/json", 400, "json_invalid"),
            (b"", "application/json", 400, "json_invalid"),
            (b"{}", "text/plain", 415, "content_type_unsupported"),
            (b"{}", "application/json", 422, "request_invalid"),
            (b"[]", "application/json", 422, "request_invalid"),
            (b'{"topic":"probe:a","state":1}', "application/json", 403, "topic_reserved"),
            (b'{"topic":"tenant:a","state":1,"x":1}', "application/json", 422, "request_invalid"),
            (b'{"topic":"tenant:a","state":"%s"}' % (b"x" * 32_767), "application/json", 413, "state_too_large"),
            (b'{"topic":"tenant:a","state":%s}' % (b"[" * 33 + b"]" * 33), "application/json", 422, "state_too_deep"),
            (b'{"topic":"tenant:a","state":%s}' % (b"[" * 5000 + b"]" * 5000), "application/json", 400, "json_invalid"),
            (b'{"topic":"tenant:a","state":9007199254740992}', "application/json", 422, "number_unsafe"),
            (b'{"topic":"tenant:a","state":{"a":[-9007199254740992]}}', "application/json", 422, "number_unsafe"),
            (b'{"topic":"tenant:a","state":{"a":18446744073709551616}}', "application/json", 422, "number_unsafe"),
            (b'{"topic":"tenant:a","state":%s}' % (b"9" * 300), "application/json", 422, "number_unsafe"),
            (b'{"topic":"tenant:a","state":1,"private":[18446744073709551616]}', "", 422, "number_unsafe"),
            (b'{"topic":"tenant:a","state":1,"private":[-9223372036854775809]}', "", 422, "number_unsafe"),
            (b'{"topic":"tenant:a","state":1e400}', "application/json", 400, "json_invalid"),
            (b'{"topic":"tenant:a","state":%s}' % (b"9" * 400), "application/json", 400, "json_invalid"),
            (b'{"topic":"tenant:a","state":Infinity}', "application/json", 400, "json_invalid"),
            (EVENT % b"9007199254740993", "application/cloudevents+json", 422, "number_unsafe"),
            (EVENT % b"18446744073709551616", "application/cloudevents+json", 422, "number_unsafe"),
        ],
    )
    async def test_bad_bodies_change_nothing(
        self, running: Running, store: Store, content: bytes, kind: str, status: int, code: str
    ) -> None:
        async with publisher(running) as client:
            response = await client.post("/v1/publish", content=content, headers={"Content-Type": kind})
        assert problem_of(response, status) == code
        assert (await store.read("tenant:a")).version == 0

    async def test_numbers_are_stored_as_they_were_said(self, running: Running, store: Store) -> None:
        state = b'{"a":9007199254740991,"b":-9007199254740991,"c":[1e308,5e-324,1E+2,0.1,-0,-0.0],"d":"%b"}' % (
            b"9" * 20
        )
        private = b'{"a":18446744073709551615,"b":-9223372036854775808,"c":-0.0}'
        body = b'{"topic":"tenant:a","state":%b,"private":%b}' % (state, private)
        async with publisher(running) as client:
            response = await client.post("/v1/publish", content=body, headers={"Content-Type": "application/json"})
            assert response.json()["verdict"] == "applied"
            again = await client.post("/v1/publish", content=body.replace(b"-0", b"0"))
            assert again.json()["verdict"] == "unchanged", "there is one zero"
        stored = await store.read("tenant:a")
        assert stored.state == (
            b'{"a":9007199254740991,"b":-9007199254740991,"c":[1e+308,5e-324,100.0,0.1,0,0.0],"d":"%b"}' % (b"9" * 20)
        )
        assert stored.private == b'{"a":18446744073709551615,"b":-9223372036854775808,"c":0.0}'

    @pytest.mark.parametrize(
        ("content", "headers", "code"),
        [
            (
                gzip.compress(b'{"topic":"tenant:a","state":1}', mtime=0),
                {"Content-Encoding": "gzip"},
                "content_encoding_",
            ),
            (gzip.compress(b'{"topic":"tenant:a","state":1}', mtime=0), {}, "content_encoding_"),
            (b"\x28\xb5\x2f\xfd\x00", {}, "content_encoding_"),
            (b'{"topic":"tenant:a","state":1}', {"Content-Encoding": "br"}, "content_encoding_"),
            (b'{"topic":"tenant:a","state":1}', {"Content-Encoding": "gzip, identity"}, "content_encoding_"),
            (b'\xef\xbb\xbf{"topic":"tenant:a","state":1}', {}, "charset_"),
            ('{"topic":"tenant:a","state":1}'.encode("utf-16"), {}, "charset_"),
            (b"\xfe\xff\x00{", {}, "charset_"),
        ],
    )
    async def test_a_body_in_another_form_is_told_so(
        self, running: Running, store: Store, content: bytes, headers: dict[str, str], code: str
    ) -> None:
        async with publisher(running) as client:
            for path in ("/v1/publish", "/v1/publish/batch", "/v1/sessions/revoke"):
                response = await client.post(path, content=content, headers=headers)
                assert problem_of(response, 415) == f"{code}unsupported"
                assert "surrogate" not in response.text
            plain = await client.post("/v1/publish", content=b"{}", headers={"Content-Encoding": "identity"})
            assert problem_of(plain, 422) == "request_invalid"
        assert (await store.read("tenant:a")).version == 0

    async def test_the_largest_state_passes(self, running: Running) -> None:
        assert (await publish(running, "x" * 32_766)).json()["verdict"] == "applied"

    async def test_rates(self, store_url: str) -> None:
        import hashlib

        keys = ",".join(f"{name}:{hashlib.sha256(name.encode()).hexdigest()}:2" for name in ("a", "b"))
        async with run_gateway(environment(store_url, PUBLISH_KEYS=keys)) as running, http(running) as client:

            async def once(key: str) -> httpx2.Response:
                body = {"topic": TOPIC, "state": 1}
                return await client.post("/v1/publish", json=body, headers={"Authorization": f"Bearer {key}"})

            answers = [await once("a"), await once("a")]
            assert [answer.status_code for answer in answers] == [200, 200]
            while answers[-1].status_code == 200 and len(answers) < 50:  # a machine that stalls earns two more a second
                answers.append(await once("a"))
            assert problem_of(answers[-1], 429) == "rate_limited"
            assert int(answers[-1].headers["retry-after"]) >= 1
            assert (await once("b")).status_code == 200

    async def test_without_the_store_the_answer_is_503(self, valkey: Server) -> None:
        async with run_gateway(environment(valkey.url)) as running:
            valkey.kill()
            response = await publish(running, 1)
            assert problem_of(response, 503) == "store_unavailable"
            assert response.headers["retry-after"]
            valkey.start()
            assert (await publish(running, 1)).json()["verdict"] == "applied"


class TestBodies:
    async def test_a_body_announced_too_large_is_refused_unread(self, running: Running) -> None:
        status, _ = await raw(running, b"Content-Length: 65537\r\n", b"")
        assert status == 413

    async def test_a_body_that_grows_too_large_is_refused_when_it_does(self, running: Running) -> None:
        chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        status, answer = await raw(running, b"Transfer-Encoding: chunked\r\n", chunk * 5)
        assert status == 413
        assert b"connection: close" in answer.lower()

    async def test_a_body_that_never_ends_is_given_up(self, store_url: str) -> None:
        async with run_gateway(environment(store_url, BODY_TIMEOUT_S="0.3")) as running:
            status, _ = await raw(running, b"Content-Length: 100\r\n", b"{")
            assert status == 408


async def raw(running: Running, headers: bytes, body: bytes) -> tuple[int, bytes]:
    """Return status and answer of a publish whose bytes are given, and which is left open."""
    connection, writer = await asyncio.open_connection("127.0.0.1", running.port)
    try:
        writer.write(
            b"POST /v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n%b\r\n%b"
            % (PUBLISH_KEY.encode(), headers, body)
        )
        async with asyncio.timeout(20):
            answer = await connection.readuntil(b"\r\n\r\n")
        return int(answer.split()[1]), answer
    finally:
        writer.close()


class TestBatch:
    async def test_each_item_has_its_verdict_in_order(self, running: Running, store: Store) -> None:
        items = [
            {"topic": "tenant:a", "state": 1},
            {"topic": "nonsense", "state": 1},
            {"topic": "tenant:a", "state": 1},
            {"topic": "tenant:a", "state": 2, "if_version": 7},
            {"specversion": "1.0", "id": "e", "source": "s", "type": "t", "subject": "tenant:b", "data": 5},
            {"topic": "tenant:b", "state": 6, "event_id": "s e"},
            None,
        ]
        async with publisher(running) as client:
            response = await client.post("/v1/publish/batch", json={"items": items})
            plain = await client.post("/v1/publish/batch", json=items[:1])
        results = response.json()["results"]
        assert [result["verdict"] for result in results] == [
            "applied", "error", "unchanged", "conflict", "applied", "duplicate", "error",
        ]  # fmt: skip
        assert [result.get("code") for result in results if result["verdict"] == "error"] == [
            "topic_invalid",
            "request_invalid",
        ]
        assert results[0]["version"] == (await store.read("tenant:a")).version
        assert plain.json()["results"][0]["verdict"] == "unchanged"

    async def test_an_unsafe_number_is_its_item_s_alone(self, running: Running, store: Store) -> None:
        items = [
            b'{"topic":"tenant:a","state":9007199254740991}',
            b'{"topic":"tenant:b","state":{"limits":{"bytes":9007199254740993}}}',
            b'{"topic":"tenant:c","state":1,"private":{"id":18446744073709551616}}',
            EVENT % b"18446744073709551616",
            b'{"topic":"tenant:d","state":1,"private":{"id":18446744073709551615}}',
        ]
        async with publisher(running) as client:
            response = await client.post("/v1/publish/batch", content=b"[" + b",".join(items) + b"]")
        results = response.json()["results"]
        unsafe = ["error", "number_unsafe"]
        assert [[one["verdict"], one.get("code")] for one in results] == [
            ["applied", None], unsafe, unsafe, unsafe, ["applied", None],
        ]  # fmt: skip
        assert results[1]["detail"].startswith("state at '/limits/bytes' is an integer beyond 2^53-1")
        assert results[1]["detail"].endswith("send it as a string")
        assert (await store.read("tenant:d")).private == b'{"id":18446744073709551615}'
        assert [(await store.read(f"tenant:{name}")).version for name in "bc"] == [0, 0]

    async def test_limits(self, running: Running) -> None:
        item = {"topic": TOPIC, "state": 1}
        async with publisher(running) as client:
            response = await client.post("/v1/publish/batch", json={"items": [item] * 501})
            assert problem_of(response, 422) == "batch_too_large"
            response = await client.post("/v1/publish/batch", json={"items": [item] * 500})
            assert [result["verdict"] for result in response.json()["results"]] == ["applied"] + ["unchanged"] * 499
            for content in (b'{"item":[]}', b'{"items":[],"x":1}', b"{}", b"5", b"null", b'{"items":5}'):
                response = await client.post("/v1/publish/batch", content=content)
                assert problem_of(response, 422) == "request_invalid"
            assert (await client.post("/v1/publish/batch", json=[])).json() == {"results": []}

    async def test_its_body_may_be_larger(self, running: Running) -> None:
        items = [{"topic": f"tenant:t{n}", "state": "x" * 30_000} for n in range(20)]
        async with publisher(running) as client:
            response = await client.post("/v1/publish/batch", json=items)
            assert {result["verdict"] for result in response.json()["results"]} == {"applied"}
            content = b"[" + b" " * 4_194_304 + b"]"
            response = await client.post("/v1/publish/batch", content=content)
            assert problem_of(response, 413) == "body_too_large"

    async def test_a_batch_spends_its_size(self, store_url: str) -> None:
        import hashlib

        key = f"k:{hashlib.sha256(PUBLISH_KEY.encode()).hexdigest()}:10"
        async with run_gateway(environment(store_url, PUBLISH_KEYS=key)) as running, publisher(running) as client:
            items = [{"topic": TOPIC, "state": 1}] * 10
            response = await client.post("/v1/publish/batch", json=items)
            assert response.status_code == 200
            for _ in range(10):  # a machine that stalls for a second has earned another
                if response.status_code == 200:
                    response = await client.post("/v1/publish/batch", json=items)
            assert problem_of(response, 429) == "rate_limited"


class TestRevoke:
    @pytest.mark.parametrize(
        ("body", "hits", "spares"),
        [
            ({"sub": "u1"}, {"sub": "u1"}, {"sub": "u2"}),
            ({"jti": "t1"}, {"jti": "t1"}, {"jti": "t2"}),
            ({"topic": "tenant:other"}, None, {"sub": "u1"}),
            ({"topic": TOPIC}, {"sub": "u1"}, None),
            ({"topic": TOPIC, "sub": "u1"}, {"sub": "u1"}, {"sub": "u2"}),
        ],
    )
    async def test_tokens_issued_before_stop_at_once(
        self, running: Running, body: dict[str, str], hits: dict[str, Any] | None, spares: dict[str, Any] | None
    ) -> None:
        # Made here: those made when the tests were collected may have ended by now.
        tokens = [(token("*", **of), status) for of, status in ((hits, 401), (spares, 200)) if of is not None]
        async with publisher(running) as client:
            response = await client.post("/v1/sessions/revoke", json=body)
        assert (response.status_code, response.json()["revoked"]) == (200, body)
        async with http(running) as client:
            for jwt, status in tokens:
                response = await client.get(f"/v1/state/{TOPIC}", headers={"Authorization": f"Bearer {jwt}"})
                assert response.status_code == status
                assert status == 200 or response.json()["code"] == "token_revoked"

    @pytest.mark.parametrize("aof", [True, False], ids=["file", "no-file"])
    async def test_durable_means_on_disk_before_the_answer(self, aof: bool) -> None:
        """A store without a file cannot make the revocation durable, so success is not answered."""
        with start_valkey(aof=aof) as server:
            async with run_gateway(environment(server.url, DURABLE="1")) as running, publisher(running) as client:
                response = await client.post("/v1/sessions/revoke", json={"sub": "tester"})
        assert response.status_code == (200 if aof else 503)
        assert aof or response.json()["code"] == "store_unavailable"

    async def test_tokens_issued_later_are_good(self, running: Running) -> None:
        async with publisher(running) as client:
            response = await client.post("/v1/sessions/revoke", json={"sub": "tester"})
        at = response.json()["at"]
        async with http(running) as client:

            async def reads() -> bool:
                minted_at, jwt = int(time.time()), token("*")
                answer = await client.get(f"/v1/state/{TOPIC}", headers={"Authorization": f"Bearer {jwt}"})
                if answer.status_code != 200 and minted_at > at:
                    raise RuntimeError("a token of a later second is refused")
                return answer.status_code == 200

            await until(reads)

    async def test_other_gateways_hear_it_and_later_ones_read_it(self, running: Running, store_url: str) -> None:
        jwt = token("*", sub="u1")
        environ = environment(store_url)

        async def is_refused(gateway: Running) -> bool:
            async with http(gateway, Authorization=f"Bearer {jwt}") as client:
                return (await client.get(f"/v1/state/{TOPIC}")).status_code == 401

        async with run_gateway(environ) as other:
            assert not await is_refused(other)
            async with publisher(running) as client:
                await client.post("/v1/sessions/revoke", json={"sub": "u1"})
            await until(lambda: is_refused(other))
        async with run_gateway(environ) as later:
            await until(lambda: is_refused(later))

    async def test_what_is_kept_is_bounded_and_ends(self, store: Store) -> None:
        from gateway.revocations import Revocation

        for number in range(6):
            await control.announce(store, Revocation("sub", f"u{number}", 1000.0 + number), keep_s=100, limit=3)
        assert [one.value for one in await control.load(store)] == ["u2", "u3", "u4", "u5"]
        await control.announce(store, Revocation("sub", "u3", 5.0), keep_s=100, limit=3)
        assert {one.value: one.at for one in await control.load(store)}["u3"] == 1003
        await control.announce(store, Revocation("sub", "new", 1104.5), keep_s=100, limit=3)
        assert [one.value for one in await control.load(store)] == ["u5", "new"]
        assert 0 < await store.redis.ttl(keys.revoked) <= 101

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ({}, "request_invalid"), ([], "request_invalid"), ({"sub": ""}, "request_invalid"),
            ({"sub": 5}, "request_invalid"), ({"subject": "x"}, "request_invalid"),
            ({"sub": "x" * 257}, "request_invalid"),
            ({"jti": "a", "sub": "b"}, "request_invalid"), ({"topic": "nonsense"}, "topic_invalid"),
        ],
    )  # fmt: skip
    async def test_bad_requests(self, running: Running, body: object, code: str) -> None:
        async with publisher(running) as client:
            assert problem_of(await client.post("/v1/sessions/revoke", json=body), 422) == code
        assert len(running.node.auth.revocations) == 0


class TestHealth:
    async def test_alive_and_ready(self, running: Running) -> None:
        async with http(running) as client:
            assert (await client.get("/healthz")).json() == {"status": "alive"}
            response = await client.get("/readyz")
        checks = dict.fromkeys(("bus", "store", "rights", "eviction", "keys", "serving"), True)
        assert response.json() == {"status": "ready", "checks": checks}

    async def test_not_ready_without_the_store(self, valkey: Server) -> None:
        environ = environment(valkey.url, PROBE_S="0.2", READY_TIMEOUT_S="0.3")
        async with run_gateway(environ) as running, http(running) as client:
            valkey.pause()
            try:
                started = time.monotonic()
                response = await client.get("/readyz")
                assert problem_of(response, 503) == "not_ready"
                assert response.json()["checks"]["store"] is False
                assert time.monotonic() - started < 6
                assert (await client.get("/healthz")).status_code == 200

                async def is_deaf() -> bool:
                    return (await client.get("/readyz")).json()["checks"]["bus"] is False

                await until(is_deaf)
            finally:
                valkey.resume()

            async def is_ready() -> bool:
                return (await client.get("/readyz")).status_code == 200

            await until(is_ready, timeout_s=20)

    async def test_not_ready_while_draining(self, running: Running) -> None:
        running.node.metrics.draining = True
        async with http(running) as client:
            response = await client.get("/readyz")
        assert (problem_of(response, 503), response.json()["checks"]["serving"]) == ("not_ready", False)

    async def test_metrics(self, running: Running) -> None:
        async with http(running) as client:
            await client.get("/healthz")
            response = await client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'planwire_http_requests_total{method="GET",route="/healthz",status="200"} 1.0' in response.text

    @pytest.mark.parametrize("name", ["openapi", "asyncapi"])
    async def test_the_descriptions_are_those_of_the_documentation(self, running: Running, name: str) -> None:
        async with http(running) as client:
            response = await client.get(f"/v1/{name}.json")
        assert response.headers["content-type"] == "application/json"
        assert response.json() == json.loads((DOCS / f"{name}.json").read_bytes())

    async def test_unknown_paths_and_methods_are_problems_too(self, running: Running) -> None:
        async with http(running) as client:
            assert problem_of(await client.get("/nowhere"), 404) == "not_found"
            response = await client.get("/v1/publish")
            assert problem_of(response, 405) == "method_not_allowed"
            assert response.headers["allow"] == "POST"

    async def test_a_405_names_the_methods_of_every_route_of_the_path(self, store_url: str) -> None:
        environ = environment(store_url, INTAKE="1")
        async with run_gateway(environ) as running, http(running) as client:
            response = await client.put("/v1/tenants/acme/scheduled-change")
        assert problem_of(response, 405) == "method_not_allowed"
        assert response.headers["allow"] == "DELETE, POST"


class TestHeaders:
    async def test_security_headers_are_on_everything(self, running: Running) -> None:
        async with http(running) as client:
            for path in ("/healthz", "/nowhere", f"/v1/state/{TOPIC}"):
                headers = (await client.get(path)).headers
                assert headers["x-content-type-options"] == "nosniff"
                assert "frame-ancestors 'none'" in headers["content-security-policy"]
                assert headers["referrer-policy"] == "no-referrer"
                assert headers["cache-control"] == "no-store"

    async def test_pages_of_allowed_origins_may_read(self, running: Running) -> None:
        origin = "https://app.example.com"
        async with reader(running) as client:
            for path in (f"/v1/state/{TOPIC}", "/v1/state/nonsense"):
                headers = (await client.get(path, headers={"Origin": origin})).headers
                assert headers["access-control-allow-origin"] == origin
                assert "Planwire-Version" in headers["access-control-expose-headers"]
                assert "Origin" in headers["vary"]
            preflight = await client.options(
                f"/v1/state/{TOPIC}/events",
                headers={"Origin": origin, "Access-Control-Request-Method": "GET",
                         "Access-Control-Request-Headers": "authorization,last-event-id"},
            )  # fmt: skip
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == origin
        assert preflight.headers["access-control-allow-methods"] == "GET, HEAD"
        for name in ("authorization", "last-event-id", "if-none-match"):
            assert name in preflight.headers["access-control-allow-headers"].lower()

    @pytest.mark.parametrize("origin", ["https://evil.example.com", "null", "http://app.example.com"])
    async def test_pages_of_others_may_not(self, running: Running, origin: str) -> None:
        async with reader(running) as client:
            response = await client.get(f"/v1/state/{TOPIC}", headers={"Origin": origin})
            preflight = await client.options(
                f"/v1/state/{TOPIC}", headers={"Origin": origin, "Access-Control-Request-Method": "GET"}
            )
        assert "access-control-allow-origin" not in response.headers
        assert problem_of(preflight, 403) == "origin_forbidden"
        assert "access-control-allow-origin" not in preflight.headers

    async def test_publishing_is_not_for_pages(self, running: Running) -> None:
        async with publisher(running) as client:
            response = await client.options(
                "/v1/publish", headers={"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
            )
        assert response.status_code == 405
        assert "access-control-allow-origin" not in response.headers
