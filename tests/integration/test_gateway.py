"""The gateway's protocol on a real server, real sockets and a real store."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx2
import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from gateway.auth.tokens import mint
from gateway.hub.topic import LiveTopic
from gateway.ws import expects
from planwire_client.core.commit import PUBLISHER
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change, Committed, Snapshot, Verdict
from sync.store.store import Store
from tests.support.gateway import SECRET, Client, Running, environment, forged, open_client, run_gateway, token
from tests.support.wait import until

TOPIC = "tenant:acme"
FUTURE = 2**53 - 1
PADDING = "x" * 200


async def commit(store: Store, state: object, topic: str = TOPIC, **options: Any) -> int:
    """Commit a state that is new, with a patch where there can be one; return its version."""
    previous = await store.read(topic)
    done = await store.commit(Change(topic, orjson.dumps(state), previous=previous, **options))
    assert done.verdict is Verdict.APPLIED
    return done.version


async def welcomed(client: Client) -> dict[str, Any]:
    welcome = await client.receive()
    assert welcome["type"] == "welcome"
    return welcome


def live(running: Running, topic: str = TOPIC) -> LiveTopic:
    found = running.node.hub.topic(topic)
    assert found is not None
    return found


async def nothing_more(client: Client) -> None:
    """Nothing is under way to the client: the answer to a frame sent now is the next it gets."""
    await client.send("nothing")
    frame = await client.receive()
    assert frame.get("code") == "unknown_type", frame


# The main path.


async def test_a_change_reaches_the_browser_that_holds_the_topic(store_url: str, store: Store) -> None:
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC) as client:
        welcome = await welcomed(client)
        assert welcome["fresh"] is True
        assert welcome["heartbeat_ms"] == 15_000
        assert welcome["token_expires_at"] > time.time() + 500
        assert await client.receive() == {"type": "snapshot", "topic": TOPIC, "version": 0, "state": None}
        version = await commit(store, {"plan": "pro"}, cause=b'{"event_id":"evt_1"}')
        assert await client.receive() == {
            "type": "snapshot",
            "topic": TOPIC,
            "version": version,
            "state": {"plan": "pro"},
            "cause": {"event_id": "evt_1"},
        }


async def test_a_small_change_of_a_large_state_is_a_patch_to_those_that_hold_its_base(
    store_url: str, store: Store
) -> None:
    first = await commit(store, {"a": 1, "b": 1, "pad": PADDING})
    async with (
        run_gateway(environment(store_url)) as running,
        open_client(running, TOPIC) as holder,
        open_client(running, TOPIC) as other,
    ):
        for client in (holder, other):
            await welcomed(client)
            assert (await client.receive())["version"] == first
        await other.send("unsubscribe", topic=TOPIC)
        await nothing_more(other)
        second = await commit(store, {"a": 2, "pad": PADDING}, cause=b'{"source":"x"}')
        assert await holder.receive() == {
            "type": "patch",
            "topic": TOPIC,
            "base": first,
            "version": second,
            "patch": {"a": 2, "b": None},
            "cause": {"source": "x"},
        }
        await nothing_more(other)
        await other.send("subscribe", topic=TOPIC, version=first)
        patch = await other.receive()
        assert (patch["type"], patch["base"], patch["version"]) == ("patch", first, second)
        await other.send("subscribe", topic=TOPIC, version=first - 1)
        assert (await other.receive())["state"] == {"a": 2, "pad": PADDING}


async def test_resuming_with_the_newest_version_is_answered_current(store_url: str, store: Store) -> None:
    version = await commit(store, {"a": 1})
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC, held=version) as client:
        await welcomed(client)
        assert await client.receive() == {"type": "current", "topic": TOPIC, "version": version}
        newer = await commit(store, {"a": 2})
        assert (await client.receive())["version"] == newer


async def test_resuming_with_an_old_version_ends_at_the_newest(store_url: str, store: Store) -> None:
    old = await commit(store, {"a": 1})
    newest = await commit(store, {"a": 2})
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC, held=old) as client:
        await welcomed(client)
        assert await client.receive() == {"type": "snapshot", "topic": TOPIC, "version": newest, "state": {"a": 2}}


async def test_a_browser_that_holds_more_than_the_store_is_reset_once_the_store_was_asked(
    store_url: str, store: Store
) -> None:
    version = await commit(store, {"a": 1})
    async with run_gateway(environment(store_url, SWEEP_S="0.3")) as running, open_client(running, TOPIC) as first:
        await welcomed(first)
        await first.receive()
        async with open_client(running, TOPIC, held=FUTURE) as client:
            await welcomed(client)
            reset = {"type": "snapshot", "topic": TOPIC, "version": version, "state": {"a": 1}, "reset": True}
            assert await client.receive() == reset
        await nothing_more(first)


async def test_a_browser_that_holds_more_than_this_gateway_knows_is_not_reset(store_url: str, store: Store) -> None:
    """Another gateway told it of a version whose announcement this one has lost."""
    await commit(store, {"a": 1})
    async with run_gateway(environment(store_url, SWEEP_S="600")) as running, open_client(running, TOPIC) as first:
        await welcomed(first)
        await first.receive()
        lost = await commit_unannounced(store, {"a": 2})
        async with open_client(running, TOPIC, held=lost) as client:
            await welcomed(client)
            assert await client.receive() == {"type": "current", "topic": TOPIC, "version": lost}
            assert (await first.receive())["version"] == lost
            newer = await commit(store, {"a": 3})
            for one in (first, client):
                assert await one.receive() == {
                    "type": "snapshot",
                    "topic": TOPIC,
                    "version": newer,
                    "state": {"a": 3},
                }
    assert running.node.metrics.resets == 0


async def commit_unannounced(store: Store, state: object, topic: str = TOPIC) -> int:
    """Write a newer version behind the bus's back."""
    (version,) = await store.versions([topic])
    version += 1
    mapping: Mapping[Any, Any] = {"version": str(version), "state": orjson.dumps(state), "digest": "", "cause": ""}
    await store.redis.hset(keys.snap(topic), mapping=mapping)
    return version


async def test_subscribing_and_unsubscribing_on_an_open_socket(store_url: str, store: Store) -> None:
    async with run_gateway(environment(store_url)) as running, open_client(running) as client:
        await welcomed(client)
        await client.send("subscribe", topic="user:7")
        assert await client.receive() == {"type": "snapshot", "topic": "user:7", "version": 0, "state": None}
        version = await commit(store, {"a": 1}, "user:7")
        assert (await client.receive())["version"] == version
        await client.send("unsubscribe", topic="user:7")
        await nothing_more(client)
        assert not live(running, "user:7").subscriptions
        newer = await commit(store, {"a": 2}, "user:7")
        await until(lambda: live(running, "user:7").version == newer)
        await nothing_more(client)
        await client.send("subscribe", topic="user:7", version=newer)
        assert await client.receive() == {"type": "current", "topic": "user:7", "version": newer}


async def test_two_gateways_on_one_store_both_deliver(store_url: str, store: Store) -> None:
    environ = environment(store_url)
    async with (
        run_gateway(environ) as one,
        run_gateway(environ) as other,
        open_client(one, TOPIC) as here,
        open_client(other, TOPIC) as there,
    ):
        for client in (here, there):
            await welcomed(client)
            await client.receive()
        for number in range(20):
            version = await commit(store, {"n": number})
            assert (await here.receive())["version"] == version
            assert (await there.receive())["version"] == version


async def test_the_same_bytes_compressed_serve_a_browser_that_asks_for_it(store_url: str, store: Store) -> None:
    await commit(store, {"pad": PADDING})
    async with (
        run_gateway(environment(store_url)) as running,
        open_client(running, TOPIC, compression="deflate") as one,
    ):
        assert "permessage-deflate" in one.connection.response.headers["Sec-WebSocket-Extensions"]  # type: ignore[union-attr]
        await welcomed(one)
        assert (await one.receive())["state"] == {"pad": PADDING}
        for number in range(3):
            version = await commit(store, {"n": number, "pad": PADDING})
            frame = await one.receive()
            assert (frame["type"], frame["version"]) == ("patch", version)


async def test_the_more_subscriptions_the_later_their_acks_and_who_is_there_is_told(store_url: str) -> None:
    async with run_gateway(environment(store_url, ACKS_PER_S="2", HEARTBEAT_S="0.5")) as running:
        async with open_client(running, TOPIC, "user:1") as first:
            assert (await welcomed(first))["ack"] == {"share": 1, "after_ms": 250}
            told = {(await first.until("ack_policy"))["topic"] for _ in range(2)}
            assert told == {TOPIC, "user:1"}
            async with open_client(running, TOPIC) as second:
                assert (await welcomed(second))["ack"] == {"share": 1, "after_ms": 1000}
                assert (await first.until("ack_policy"))["after_ms"] == 2000
            await until(lambda: running.node.hub.subscription_count == 2)
        await until(lambda: running.node.hub.subscription_count == 0)


async def test_a_new_welcome_does_not_undo_what_was_said_of_a_crowds_acks(store_url: str) -> None:
    """Browsers take its rule for all their topics."""
    async with (
        run_gateway(environment(store_url, ACKS_PER_TOPIC="1")) as running,
        open_client(running, TOPIC),
        open_client(running, TOPIC) as second,
    ):
        first_told = await second.until("ack_policy")
        assert first_told["share"] < 1
        await second.send("token", token=token(ttl_s=900))
        await second.until("welcome")
        assert await second.until("ack_policy") == first_told


async def test_acks_and_nacks_are_noted(store_url: str, store: Store) -> None:
    version = await commit(store, {"a": 1})
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC) as client:
        await welcomed(client)
        await client.receive()
        await client.send("ack", topic=TOPIC, version=version + 1)  # never sent
        await client.send("ack", topic=TOPIC, version=version)
        await client.send("ack", topic=TOPIC, version=version)
        await client.send("nack", topic=TOPIC, version=version, reason="it hurts")
        await client.send("nack", topic=TOPIC, version=version + 1, reason="never sent")
        await nothing_more(client)
        (subscription,) = live(running).subscriptions
        assert (subscription.acked, subscription.nacked) == (version, version)
        assert (running.node.metrics.acks, running.node.metrics.nacks) == (1, 1)


# Who may.


async def test_a_topic_the_token_does_not_name_is_an_error_and_nothing_else(store_url: str, store: Store) -> None:
    await commit(store, {"hush": 1}, "tenant:other")
    async with (
        run_gateway(environment(store_url)) as running,
        open_client(running, "tenant:other", TOPIC, jwt=token(TOPIC)) as client,
    ):
        await welcomed(client)
        error = await client.receive()
        assert (error["type"], error["code"], error["topic"]) == ("error", "forbidden", "tenant:other")
        assert (await client.receive())["topic"] == TOPIC
        await client.send("subscribe", topic="tenant:other")
        assert (await client.receive())["code"] == "forbidden"
        await commit(store, {"hush": 2}, "tenant:other")
        await commit(store, {"a": 1})
        assert (await client.receive())["topic"] == TOPIC
        assert running.node.hub.topic("tenant:other") is None


@pytest.mark.parametrize(
    ("jwt", "code"),
    [
        ("nonsense", "token_malformed"),
        (forged(TOPIC), "token_signature"),
        ("", "token_missing"),
    ],
)
async def test_a_wrong_token_is_told_why_and_closed(store_url: str, jwt: str, code: str) -> None:
    async with run_gateway(environment(store_url)) as running, open_client(running, hello=False) as client:
        await client.send("hello", token=jwt, topics={TOPIC: 0})
        assert (await client.receive())["code"] == code
        assert await client.closed() == (4401, code)
        await until(lambda: running.node.metrics.sockets == 0)
        assert running.node.hub.topics == {}


async def test_a_token_already_expired_opens_nothing(store_url: str) -> None:
    old = token(TOPIC, ttl_s=1)
    async with run_gateway(environment(store_url)) as running:
        await until(lambda: running.node.auth.verify(old, time.time()).__class__.__name__ == "AuthFailure")
        async with open_client(running, TOPIC, jwt=old) as client:
            assert (await client.receive())["code"] == "token_expired"
            assert (await client.closed())[0] == 4401


@pytest.mark.parametrize("leeway_s", [0.0, 1.5])
async def test_an_expired_token_closes_the_socket_within_a_second(store_url: str, leeway_s: float) -> None:
    """Of its expiry, or, where the issuer's clock may be off, of the end of that leeway."""
    late_s: list[float] = []
    async with run_gateway(environment(store_url, TOKEN_LEEWAY_S=str(leeway_s))) as running:
        # More than once only where the machine has stalled: who is late is so each time.
        while not late_s or (late_s[-1] >= 1 and len(late_s) < 3):
            async with open_client(running, TOPIC, jwt=token(TOPIC, ttl_s=3)) as client:
                expires_at = (await welcomed(client))["token_expires_at"]
                await client.receive()
                error = await client.receive()
                assert (error["type"], error["code"]) == ("error", "token_expired")
                assert await client.closed() == (4401, "token_expired")
                late_s.append(time.time() - expires_at - leeway_s)
    assert min(late_s) >= 0
    assert min(late_s) < 1


async def test_a_token_that_ended_within_the_leeway_opens_a_socket_until_the_leeway_ends(store_url: str) -> None:
    """As a gateway sees it whose clock is ahead of the issuer's; the tab is told the token's own end, and renews."""
    async with run_gateway(environment(store_url, TOKEN_LEEWAY_S="6")) as running:
        jwt = mint(SECRET, topics=(TOPIC,), now=time.time() - 600, ttl_s=599, sub="tester")
        ends_at = int(time.time() - 1) + 6
        async with open_client(running, TOPIC, jwt=jwt) as client:
            welcome = await welcomed(client)
            assert welcome["token_expires_at"] < time.time()
            assert (await client.until("error"))["code"] == "token_expired"
            assert await client.closed() == (4401, "token_expired")
            assert time.time() >= ends_at - 1
        async with open_client(running, TOPIC, jwt=jwt) as client:
            assert (await client.receive())["code"] == "token_expired"


async def test_a_refresh_keeps_the_socket_open_beyond_the_first_expiry(store_url: str, store: Store) -> None:
    async with (
        run_gateway(environment(store_url)) as running,
        open_client(running, TOPIC, jwt=token(TOPIC, ttl_s=3)) as client,
    ):
        expires_at = (await welcomed(client))["token_expires_at"]
        await client.receive()
        await client.send("token", token=token(TOPIC))
        assert (await welcomed(client))["token_expires_at"] > expires_at + 60
        await until(lambda: time.time() > expires_at + 0.6, timeout_s=20)
        version = await commit(store, {"a": 1})
        assert (await client.receive())["version"] == version


async def test_a_refused_refresh_changes_nothing(store_url: str, store: Store) -> None:
    async with (
        run_gateway(environment(store_url)) as running,
        open_client(running, TOPIC, jwt=token(TOPIC, ttl_s=4)) as client,
    ):
        await welcomed(client)
        await client.receive()
        for jwt, code in (
            ("nonsense", "token_malformed"),
            (token(TOPIC, sub="somebody-else"), "subject_changed"),
        ):
            await client.send("token", token=jwt)
            assert (await client.receive())["code"] == code
        version = await commit(store, {"a": 1})
        assert (await client.receive())["version"] == version
        assert (await client.receive())["code"] == "token_expired"
        assert (await client.closed())[0] == 4401


async def test_topics_that_a_refresh_drops_are_gone(store_url: str, store: Store) -> None:
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC, "user:7") as client:
        await welcomed(client)
        await client.receive()
        await client.receive()
        await client.send("token", token=token(TOPIC))
        await welcomed(client)
        assert await client.receive() == {"type": "gone", "topic": "user:7", "reason": "revoked"}
        await commit(store, {"a": 1}, "user:7")
        version = await commit(store, {"a": 1})
        assert (await client.receive())["version"] == version


async def test_a_topic_revoked_is_gone_and_stays_so_for_tokens_issued_before(store_url: str, store: Store) -> None:
    from gateway.auth import revocation_store
    from gateway.auth.revocations import Revocation

    issued_before = token(TOPIC)
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC, "user:7") as client:
        await welcomed(client)
        await client.receive()
        await client.receive()
        await revocation_store.announce(store, Revocation("topic", TOPIC, time.time()), keep_s=60, limit=10)
        assert await client.receive() == {"type": "gone", "topic": TOPIC, "reason": "revoked"}
        await client.send("subscribe", topic=TOPIC)
        assert (await client.receive())["code"] == "forbidden"
        async with open_client(running, TOPIC, jwt=issued_before) as other:
            await welcomed(other)
            assert (await other.receive())["code"] == "forbidden"


# What is not the protocol.


async def test_no_hello_in_time_closes_4501(store_url: str) -> None:
    async with (
        run_gateway(environment(store_url, HELLO_TIMEOUT_S="0.2")) as running,
        open_client(running, hello=False) as client,
    ):
        assert (await client.closed())[0] == 4501


async def test_another_frame_before_the_hello_closes_4501(store_url: str) -> None:
    async with run_gateway(environment(store_url)) as running, open_client(running, hello=False) as client:
        await client.send("subscribe", topic=TOPIC)
        assert (await client.receive())["code"] == "no_hello"
        assert (await client.closed())[0] == 4501


async def test_a_first_frame_that_is_not_json_closes_4500(store_url: str) -> None:
    async with run_gateway(environment(store_url)) as running, open_client(running, hello=False) as client:
        await client.connection.send("{")
        assert (await client.receive())["code"] == "bad_json"
        assert (await client.closed())[0] == 4500


async def test_nonsense_after_the_hello_is_answered_and_survived(store_url: str, store: Store) -> None:
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC) as client:
        await welcomed(client)
        await client.receive()
        for text, code in (
            ("{", "bad_json"),
            ("[]", "bad_frame"),
            ('{"type":"dance"}', "unknown_type"),
            ('{"type":"subscribe","topic":"nope"}', "bad_topic"),
            ('{"type":"ack","topic":"tenant:acme"}', "bad_frame"),
            ('{"type":' + "[" * 1000 + "]" * 1000 + "}", "unknown_type"),
        ):
            await client.connection.send(text)
            assert (await client.receive())["code"] == code
        version = await commit(store, {"a": 1})
        assert (await client.receive())["version"] == version


async def test_binary_frames_close_4500(store_url: str) -> None:
    async with run_gateway(environment(store_url)) as running, open_client(running) as client:
        await welcomed(client)
        await client.connection.send(b"{}")
        assert (await client.closed())[0] == 4500


# Limits.


async def test_too_many_topics_close_4529(store_url: str) -> None:
    async with run_gateway(environment(store_url, TOPICS_PER_SOCKET="2")) as running:
        async with open_client(running, "tenant:1", "tenant:2", "tenant:3") as client:
            assert (await client.closed())[0] == 4529
        async with open_client(running, "tenant:1", "tenant:2") as client:
            await welcomed(client)
            await client.receive()
            await client.receive()
            await client.send("subscribe", topic="tenant:3")
            code, reason = await client.closed()
            assert code == 4529
            assert "2 topics" in str(reason)
    assert running.node.metrics.closed[4529] == 2


async def test_too_many_frames_close_4529(store_url: str) -> None:
    async with run_gateway(environment(store_url, FRAMES_PER_S="5")) as running, open_client(running) as client:
        await welcomed(client)
        with contextlib.suppress(ConnectionClosed):
            for _ in range(100):  # ten are had at once, and five more for each second that the machine stands still
                await client.send("ack", topic=TOPIC, version=1)
        assert (await client.closed())[0] == 4529


async def test_too_large_a_frame_closes_4513(store_url: str) -> None:
    async with run_gateway(environment(store_url, FRAME_MAX_BYTES="1024")) as running, open_client(running) as client:
        await welcomed(client)
        await client.connection.send(json.dumps({"type": "token", "token": "x" * 2000}))
        assert (await client.closed())[0] == 4513


async def test_too_many_sockets_of_a_subject_close_4529(store_url: str) -> None:
    async with run_gateway(environment(store_url, SOCKETS_PER_SUBJECT="1")) as running, open_client(running) as first:
        await welcomed(first)
        async with open_client(running) as second:
            assert (await second.closed())[0] == 4529
        async with open_client(running, jwt=token(sub="another")) as other:
            await welcomed(other)
        await until(lambda: running.node.metrics.sockets == 1)
        await nothing_more(first)


async def refused(running: Running, **options: Any) -> tuple[int, dict[str, Any], Any]:
    """Return status, problem document and headers of a handshake that is answered with them."""
    with pytest.raises(InvalidStatus) as caught:
        async with connect(running.ws_url, subprotocols=[Subprotocol("planwire.v1")], **options):
            pass
    response = caught.value.response
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.body is not None
    problem = json.loads(response.body)
    assert problem["status"] == response.status_code
    return response.status_code, problem, response.headers


async def test_the_pages_of_other_origins_are_refused(store_url: str) -> None:
    async with run_gateway(environment(store_url, ALLOWED_ORIGINS="https://app.example")) as running:
        for origin in ("https://evil.example", "http://app.example", "null", "https://app.example.evil"):
            status, problem, _ = await refused(running, origin=origin)
            assert (status, problem["code"]) == (403, "origin")
        async with open_client(running, origin="https://app.example") as client:
            await welcomed(client)


async def test_pages_of_applications_and_extensions_connect_and_read_where_they_are_listed(store_url: str) -> None:
    chrome, firefox = "abcdefghijklmnopabcdefghijklmnop", "0f5a1c2e-1111-2222-3333-444455556666"
    written_and_sent = (
        ("capacitor://localhost", "capacitor://localhost"),
        ("ionic://localhost", "ionic://localhost"),
        ("tauri://localhost", "tauri://localhost"),
        ("https://tauri.localhost", "https://tauri.localhost"),
        (f"chrome-extension://{chrome}", f"chrome-extension://{chrome}"),
        (f"moz-extension://{firefox.upper()}", f"moz-extension://{firefox}"),
        ("https://app.example:443", "https://app.example"),
        ("https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", "https://xn--bcher-kva.example"),
    )
    listed = ",".join(written for written, _ in written_and_sent)
    async with (
        run_gateway(environment(store_url, ALLOWED_ORIGINS=listed)) as running,
        run_gateway(environment(store_url)) as other,
        httpx2.AsyncClient() as http,
    ):
        for _, origin in written_and_sent:
            async with open_client(running, origin=origin) as client:
                await welcomed(client)
            assert (await refused(other, origin=origin))[0] == 403
            answer = await http.get(f"{running.url}/v1/state/tenant:a", headers={"Origin": origin})
            assert answer.headers["access-control-allow-origin"] == origin


async def test_more_sockets_than_the_process_takes_are_shed_with_503(store_url: str) -> None:
    async with run_gateway(environment(store_url, SOCKETS_MAX="1")) as running, open_client(running) as client:
        await welcomed(client)
        status, _, headers = await refused(running)
        assert status == 503
        assert int(headers["Retry-After"]) > 0


async def test_more_sockets_of_an_address_are_refused_with_429(store_url: str) -> None:
    async with run_gateway(environment(store_url, SOCKETS_PER_ADDRESS="1")) as running:
        async with open_client(running) as client:
            await welcomed(client)
            assert (await refused(running))[0] == 429
        await until(lambda: running.node.metrics.sockets == 0)
        async with open_client(running) as client:
            await welcomed(client)


async def test_another_subprotocol_is_refused(store_url: str) -> None:
    async with run_gateway(environment(store_url)) as running:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(running.ws_url, subprotocols=[Subprotocol("planwire.v2")]):
                pass
        assert caught.value.response.status_code == 400


# Expecting.


async def test_an_expect_is_pending_and_then_answered_by_what_is_newer(store_url: str, store: Store) -> None:
    version = await commit(store, {"a": 1})
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC) as client:
        await welcomed(client)
        await client.receive()
        await client.send("expect", topic=TOPIC, after=version, timeout_ms=8_000)
        assert await client.receive() == {"type": "pending", "topic": TOPIC, "after": version}
        assert await until(lambda: store.redis.zscore(keys.reconcile, TOPIC))
        newer = await commit(store, {"a": 2})
        assert (await client.receive())["version"] == newer
        running.node.registry.tick(time.monotonic() + 9)  # its time is over
        assert len(running.node.registry.expects) == 0
        await nothing_more(client)
    assert running.node.metrics.expects_expired == 0


async def test_an_expect_of_what_is_there_already_is_answered_current(store_url: str, store: Store) -> None:
    version = await commit(store, {"a": 1})
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC) as client:
        await welcomed(client)
        await client.receive()
        await client.send("expect", topic=TOPIC, after=version - 1)
        assert await client.receive() == {"type": "current", "topic": TOPIC, "version": version}


async def test_an_expect_that_nothing_answers_expires(store_url: str, store: Store) -> None:
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC) as client:
        await welcomed(client)
        await client.receive()
        started = time.monotonic()
        await client.send("expect", topic=TOPIC, after=0, timeout_ms=300)
        assert (await client.receive())["type"] == "pending"
        assert await client.receive() == {"type": "expired", "topic": TOPIC, "after": 0}
        assert time.monotonic() - started >= 0.3
        await client.send("expect", topic="user:7", after=0)
        assert (await client.receive())["code"] == "not_subscribed"


async def test_a_socket_has_a_bounded_number_of_expects_pending(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expects, "EXPECTS_PER_SOCKET", 2)
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC) as client:
        await welcomed(client)
        await client.receive()
        for after, timeout_ms in ((1, 60_000), (1, 20_000), (2, 60_000)):  # the same one again takes no other place
            await client.send("expect", topic=TOPIC, after=after, timeout_ms=timeout_ms)
            assert (await client.receive())["type"] == "pending"
        await client.send("expect", topic=TOPIC, after=3)
        refused = await client.receive()
        assert (refused["type"], refused["code"], refused["topic"]) == ("error", "too_many_expects", TOPIC)
        assert len(running.node.registry.expects) == 2
        running.node.registry.tick(time.monotonic() + 21)  # the shorter one's time is over
        assert await client.receive() == {"type": "expired", "topic": TOPIC, "after": 1}
        await client.send("expect", topic=TOPIC, after=3)
        assert (await client.receive())["type"] == "pending"

        version = await commit(store, {"plan": "pro"})  # both have what they waited for, and take no place any more
        assert (await client.until("snapshot"))["version"] == version
        for after in (version, version + 1):
            await client.send("expect", topic=TOPIC, after=after)
            assert (await client.receive())["type"] == "pending"


# Coming and going.


async def test_a_browser_that_goes_leaves_nothing_behind(store_url: str) -> None:
    async with run_gateway(environment(store_url)) as running:
        async with open_client(running, TOPIC) as client:
            await welcomed(client)
            await client.receive()
            await client.send("expect", topic=TOPIC, after=0, timeout_ms=120_000)
            await client.until("pending")
            client.connection.transport.abort()
        kept = running.node.registry
        await until(lambda: not kept.sockets)
        assert live(running).subscriptions == []
        assert not kept.admission._per_address
        assert not kept.admission._per_subject
        assert len(kept._deadlines) == 0
        assert len(kept.expects) == 0
        assert not kept.expects._pending
        assert not any(kept._heartbeats._groups)


async def test_heartbeats_come_on_time_and_tell_when_the_bus_was_verified(store_url: str) -> None:
    async with (
        run_gateway(environment(store_url, HEARTBEAT_S="0.5", PROBE_S="10")) as running,
        open_client(running) as client,
    ):
        assert (await welcomed(client))["heartbeat_ms"] == 500
        beats = [await client.until("heartbeat") for _ in range(3)]
    assert any(beat["fresh"] for beat in beats)
    assert all(0 <= beat["at"] - beat["verified_at"] < 20_000_000 for beat in beats if beat["fresh"])
    gaps_us = [later["at"] - earlier["at"] for earlier, later in itertools.pairwise(beats)]
    assert min(gaps_us) > 300_000
    assert min(gaps_us) < 1_500_000


async def test_a_peer_that_answers_no_ping_is_dropped(store_url: str) -> None:
    async with run_gateway(environment(store_url, HEARTBEAT_S="0.25")) as running, open_client(running) as client:
        await welcomed(client)
        client.connection.protocol.receive_data = lambda data: None  # type: ignore[method-assign]
        await until(lambda: running.node.metrics.closed[1006] == 1, timeout_s=10)
        client.connection.transport.abort()


async def test_the_gateway_is_ready_soon_after_its_start(store_url: str, store: Store) -> None:
    """Not only after a first probe has come too early to be heard."""
    started = time.monotonic()
    async with run_gateway(environment(store_url, PROBE_S="10")) as running:
        assert time.monotonic() - started < 8
        async with httpx2.AsyncClient() as http:
            assert (await http.get(f"{running.url}/readyz")).status_code == 200
        # A bus that was renewed is probed at once, not an interval later.
        probes = running.node.metrics.probes
        await store.redis.client_kill_filter(_type="pubsub")
        await until(lambda: running.node.metrics.probes > probes and running.node.hub.fresh)


async def test_a_store_that_lost_its_data_gets_it_back_and_no_browser_notices(store_url: str, store: Store) -> None:
    kept = await commit(store, {"a": 1})
    async with run_gateway(environment(store_url, SWEEP_S="0.2")) as running, open_client(running, TOPIC) as client:
        await welcomed(client)
        await client.receive()
        await store.redis.flushall()
        await until(lambda: running.node.metrics.restored == 1)
        assert await store.read(TOPIC) == Snapshot(TOPIC, kept, b'{"a":1}', b"", b"", kept, PUBLISHER, restored=True)
        await nothing_more(client)
        version = await commit(store, {"a": 2})
        assert version > kept
        assert (await client.receive())["version"] == version
    assert running.node.metrics.resets == 0


@pytest.mark.parametrize("is_heard", [True, False], ids=["heard", "read"])
async def test_what_is_lost_is_not_put_over_what_came_since_though_the_store_s_clock_is_behind(
    store_url: str, store: Store, is_heard: bool
) -> None:
    ahead = (int(time.time()) + 3600) * 1_000_000  # a version by a clock that has been set right since
    await store.restore(Snapshot(TOPIC, ahead, b'{"a":1}', b"", b""))
    # No sweep comes between the loss and the commit after it, or it would be put back first.
    async with run_gateway(environment(store_url, SWEEP_S="600")) as running, open_client(running, TOPIC) as client:
        await welcomed(client)
        assert (await client.receive())["version"] == ahead
        if is_heard:
            heard = await commit(store, {"a": 2})
            assert heard > ahead
            assert (await client.receive())["version"] == heard
        await store.redis.flushall()
        version = await commit(store, {"a": 3})
        assert version < ahead
        told = await client.receive()
        assert (told["type"], told["version"], told["state"], told["reset"]) == ("snapshot", version, {"a": 3}, True)
        running.node.reconciler.request_read(TOPIC)
        again = await commit(store, {"a": 4})
        assert (await client.receive())["version"] == again
        assert (await store.read(TOPIC)).state == b'{"a":4}'
    assert running.node.metrics.restored == 0


async def test_an_older_file_s_state_gives_way_to_what_is_held_here(store_url: str, store: Store) -> None:
    older = await commit(store, {"a": 1})
    held = await commit(store, {"a": 2})
    async with run_gateway(environment(store_url, SWEEP_S="0.2")) as running, open_client(running, TOPIC) as client:
        await welcomed(client)
        await client.receive()
        await store.redis.hset(
            keys.snap(TOPIC), mapping={"version": str(older), "rev": str(older), "state": b'{"a":1}', "cause": b""}
        )
        await until(lambda: running.node.metrics.restored == 1)
        assert await store.read(TOPIC) == Snapshot(TOPIC, held, b'{"a":2}', b"", b"", held, PUBLISHER, restored=True)
        await nothing_more(client)
    assert running.node.metrics.resets == 0


async def test_racing_commits_are_never_taken_for_a_store_that_lost_its_newest(store_url: str, store: Store) -> None:
    """Announcements outrun the answers to reads; that is no loss, restores nothing and wants no reconcile."""
    async with run_gateway(environment(store_url, SWEEP_S="0.05")) as running, open_client(running, TOPIC) as client:
        await welcomed(client)
        await client.receive()

        async def ask() -> None:
            for _ in range(100):
                running.node.reconciler.request_read(TOPIC)
                await asyncio.sleep(0)

        results, _ = await asyncio.gather(
            store.commit_many([Change(TOPIC, b'{"n":%d}' % number) for number in range(300)]), ask()
        )
        last = results[-1]
        assert isinstance(last, Committed)
        async with asyncio.timeout(20):
            while (await client.receive())["version"] < last.version:
                pass
    assert running.node.metrics.restored == 0
    assert await store.redis.zcard(keys.reconcile) == 0


async def test_an_expect_asks_the_provider_for_what_no_webhook_brings_and_for_nothing_else(
    store_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expects, "PROVIDER_DELAY_S", 30.0)
    async with run_gateway(environment(store_url)) as running, open_client(running, "tenant:late", TOPIC) as client:
        for _ in range(2):
            await client.until("snapshot")
        for topic in (TOPIC, "tenant:late"):
            await client.send("expect", topic=topic, after=0, timeout_ms=60_000)
            await client.until("pending")
        await store.commit(Change(TOPIC, b'{"plan":"pro"}'))
        await client.until("snapshot")
        running.node.registry.tick(time.monotonic() + 31)  # the head start is over
        asked: list[Any] = []

        async def is_asked() -> bool:
            asked[:] = await store.redis.zrange(keys.reconcile, 0, -1)
            return bool(asked)

        await until(is_asked)
        assert asked == [b"tenant:late"]
