"""Tabs that wait, come back, lag, sleep and change hands: none goes back, misses the newest or sees another's."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest

from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change, Snapshot
from tests.support.gateway import SECRET, token
from tests.support.proxy import run_proxy
from tests.support.servers import start_valkey
from tests.support.slow_socket import open_slow_socket
from tests.support.system import FENCE, PROBE_S, TOPIC, System, Tab, ago, event, run_system
from tests.support.wait import until

BUSY_S = 4.0
"""What a busy machine may add to what is immediate."""

SHORT_S = 5.0
"""How long a token lives that ends within a test; whole seconds count, and it has to be let in before."""


async def is_ready(system: System) -> bool:
    return (await system.http.get("/readyz")).status_code == 200


async def seats(system: System, *counts: int) -> int:
    """The last version of a row of webhooks that change the number of seats."""
    version = 0
    for count in counts:
        version = await system.apply(event(ago(0), items=[("pri_pro", count)]))
    return version


async def test_s23_a_page_that_returns_before_the_webhook_is_told_pending_and_then_the_plan(system: System) -> None:
    async with system.tab() as tab:
        await tab.next("snapshot")
        began = time.monotonic()
        await tab.client.send("expect", topic=TOPIC, after=0, timeout_ms=300)
        assert await tab.next("pending") == {"type": "pending", "topic": TOPIC, "after": 0}
        assert (await tab.next("expired"))["after"] == 0
        assert 0.3 <= time.monotonic() - began < 10, "the bound is the page's own"
        await tab.client.send("expect", topic=TOPIC, after=0, timeout_ms=30_000)
        await tab.next("pending")
        bought = await system.apply(event(ago(0), kind="subscription.created"))
        await tab.reaches(bought)
        assert tab.plan == "pro"
        await tab.fence()
        assert [frame["type"] for frame in tab.frames].count("expired") == 1
    # The customer comes back to the success page after the webhook, with what the page held before it.
    async with system.tab() as again:
        await again.reaches(bought)
        await again.client.send("expect", topic=TOPIC, after=0, timeout_ms=30_000)
        assert await again.next("current", "pending") == {"type": "current", "topic": TOPIC, "version": bought}
        assert again.plan == "pro"
    waited = await system.read(min_version="1", wait_ms="30000")
    assert waited["version"] == bought


async def test_s38_a_tab_that_comes_back_gets_one_frame_to_the_newest_and_no_patch_on_what_it_does_not_hold(
    system: System,
) -> None:
    async with system.tab() as tab:
        seventh = await seats(system, 1, 2, 3, 4, 5, 6, 7)
        await tab.reaches(seventh)
        held, state = tab.version, tab.state
    eleventh = await seats(system, 8, 9, 10, 11)
    (entry,) = [entry for entry in await system.history() if entry.version == eleventh]
    twelfth = await seats(system, 12)
    cases = [(held, state), (eleventh, json.loads(entry.state)), (0, None)]
    for version, known in cases:
        async with system.tab(held=version, state=known) as tab:
            await (await tab.reaches(twelfth)).fence()
            told = [frame for frame in tab.frames if frame["type"] in ("snapshot", "patch", "current")]
            assert [frame["version"] for frame in told] == [twelfth]
            assert tab.state["limits"]["seats"] == 12
            assert tab.state == await system.state()
    async with system.tab(held=twelfth, state=await system.state()) as tab:
        assert await tab.next("snapshot", "patch", "current") == {"type": "current", "topic": TOPIC, "version": twelfth}


async def test_s39_a_tab_that_lands_on_a_server_that_lags_does_not_go_back(tmp_path: Path) -> None:
    """The server's wire to the store is frozen at version 9; the tab holds 12 from another one."""
    with start_valkey(tcp=True) as valkey:
        async with (
            run_proxy("127.0.0.1", valkey.port) as wire,
            run_system(valkey.url, tmp_path) as ahead,
            run_system(f"redis://127.0.0.1:{wire.port}", tmp_path, PROBE_S=str(PROBE_S)) as lagging,
            ahead.tab() as tab,
        ):
            ninth = await seats(ahead, *range(1, 10))
            async with ahead_of(lagging, ahead) as stayed:
                await stayed.reaches(ninth)
                wire.freeze()
                twelfth = await seats(ahead, 10, 11, 12)
                await tab.reaches(twelfth)
                async with ahead_of(lagging, ahead, tab) as moved:
                    await moved.until(lambda tab: tab.fresh is False)
                    assert [frame for frame in moved.frames if "version" in frame] == []
                    assert (moved.version, moved.plan) == (twelfth, "pro")
                    wire.thaw()
                    confirmed = await moved.next("current", "snapshot", "patch")
                    assert confirmed == {"type": "current", "topic": TOPIC, "version": twelfth}
                    await stayed.reaches(twelfth)
                    assert (stayed.resets, moved.resets) == (0, 0)
            behind = await lagging.http.get(
                f"/v1/state/{TOPIC}",
                params={"min_version": str(twelfth + 1), "wait_ms": "50"},
                headers={"Authorization": f"Bearer {token()}"},
            )
            assert (behind.status_code, behind.json()["code"]) == (504, "behind")


def ahead_of(server: System, system: System, tab: Tab | None = None) -> Any:
    """A tab on `server` that holds what `tab` shows; its fence goes by way of `system`, whose store is not cut off."""
    held, state = (0, None) if tab is None else (tab.version, tab.state)
    return system.tab(held=held, state=state, port=server.gateway.port)


async def test_s40_after_a_restore_from_a_backup_nobody_keeps_the_lost_state(tmp_path: Path) -> None:
    """No gateway that knew the newer version is left: the tabs alone hold it, are reset, and the topic is compared."""
    with start_valkey(tcp=True) as valkey:
        async with run_system(valkey.url, tmp_path) as system, system.tab() as tab:
            backup = await seats(system, 1)
            copied = await system.store.read(TOPIC)
            await tab.reaches(await seats(system, 2, 3))
            lost, state = tab.version, tab.state
        valkey.restart()  # without a file: all is gone, and what follows is the backup
        async with run_system(valkey.url, tmp_path) as system:
            assert await system.store.restore(Snapshot(TOPIC, copied.version, copied.state, copied.private, b""))
            await system.store.redis.delete(keys.reconcile)
            async with system.tab(held=lost, state=state) as tab:
                frame = await tab.next("snapshot", "patch", "current")
                assert (frame["type"], frame["reset"], frame["version"]) == ("snapshot", True, backup)
                assert frame["state"]["limits"]["seats"] == 1
                assert tab.resets == 1

                async def is_wanted() -> bool:
                    return await system.store.redis.zscore(keys.reconcile, TOPIC) is not None

                await until(is_wanted)
                await tab.reaches(await seats(system, 4))
                assert tab.resets == 1


@pytest.mark.parametrize("moment", ["before the read", "within the read", "after the read"])
async def test_s41_what_is_committed_while_a_snapshot_is_read_is_in_it_or_follows_it(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Without a sweep to help: to subscribe first and then read leaves no gap."""
    async with run_system(store_url, tmp_path, SWEEP_S="600") as system:
        store = system.gateway.node.store
        reads = store.read_many
        for number in range(1, 11):
            tenant = f"t{number}"
            topic = f"tenant:{tenant}"
            await system.apply(event(ago(10), tenant=tenant, items=[("pri_pro", 1)]))
            change = event(ago(5), tenant=tenant, items=[("pri_pro", 2)])
            made: list[int] = []
            monkeypatch.setattr(store, "read_many", changing(system, reads, topic, change, made, moment))
            async with system.tab(topic) as tab:
                await tab.next("snapshot")
                if moment == "after the read":
                    made.append(await system.apply(change))
                (version,) = made
                await tab.reaches(version)
                assert tab.state["limits"]["seats"] == 2


Reads = Callable[[Sequence[str]], Awaitable[list[Snapshot]]]


def changing(system: System, reads: Reads, topic: str, change: bytes, made: list[int], moment: str) -> Reads:
    """A reading of the store during the first of which, of `topic`, a webhook is answered; its version is `made`."""

    async def read_many(topics: Sequence[str]) -> list[Snapshot]:
        is_first = topic in topics and not made
        if is_first and moment == "before the read":
            made.append(await system.apply(change))
        found = await reads(topics)
        if is_first and moment == "within the read":
            made.append(await system.apply(change))
        return found

    return read_many


async def test_s42_a_server_that_is_cut_off_shows_nothing_as_fresh_that_is_not(tmp_path: Path) -> None:
    with start_valkey(tcp=True) as valkey:
        async with (
            run_proxy("127.0.0.1", valkey.port) as wire,
            run_system(valkey.url, tmp_path) as well,
            run_system(f"redis://127.0.0.1:{wire.port}", tmp_path, PROBE_S=str(PROBE_S)) as cut,
            well.tab() as there,
            ahead_of(cut, well) as here,
        ):
            old = await seats(well, 1)
            for tab in (there, here):
                await tab.until(lambda tab: tab.version == old and tab.fresh)
            wire.freeze()
            began = time.monotonic()
            new = await seats(well, 2)
            await there.reaches(new)
            await here.until(lambda tab: not tab.fresh)
            assert time.monotonic() - began < 2 * PROBE_S + BUSY_S, "two probe intervals, and what a busy machine adds"
            assert here.version == old
            assert (await cut.http.get("/readyz")).status_code == 503
            await until(lambda: is_ready(well))
            await there.until(lambda tab: tab.fresh)
            wire.thaw()
            await here.until(lambda tab: tab.version == new and tab.fresh)


async def test_a_server_that_stood_still_calls_nothing_fresh_that_it_has_not_verified_since(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is stopped, or a machine that sleeps: the first heartbeat after it knows of it."""
    async with run_system(store_url, tmp_path, PROBE_S=str(PROBE_S), HEARTBEAT_S="0.25") as system, system.tab() as tab:
        await tab.until(lambda tab: tab.fresh)
        registry = system.gateway.node.registry
        tick = registry.tick

        def late(now: float) -> None:
            monkeypatch.setattr(registry, "tick", tick)
            time.sleep(2 * PROBE_S)
            tick(now)

        monkeypatch.setattr(registry, "tick", late)
        await tab.until(lambda tab: tab.fresh is False)
        await tab.until(lambda tab: tab.fresh)
        beats = [frame for frame in tab.frames if frame["type"] == "heartbeat" and frame["fresh"]]
        assert max(beat["at"] - beat["verified_at"] for beat in beats) < 2 * PROBE_S * 1e6


async def test_s44_a_sleeping_tab_costs_one_slot_wakes_to_the_newest_and_delays_nobody(
    store_url: str, tmp_path: Path
) -> None:
    """Some 4 MB of versions pass by a tab that does not read."""
    async with (
        # However long that takes: it is not to be given up for it.
        run_system(store_url, tmp_path, SEND_TIMEOUT_S="60") as system,
        open_slow_socket(system.gateway, TOPIC) as asleep,
        system.tab() as awake,
    ):
        versions, worst_s = 260, 0.0
        for number in range(versions):
            state = json.dumps({"plan": {"key": "pro"}, "n": number, "filler": str(number) * 6000}).encode()
            committed = await system.store.commit(Change(TOPIC, state))
            began = time.monotonic()
            await awake.reaches(committed.version)
            worst_s = max(worst_s, time.monotonic() - began)
        assert worst_s < BUSY_S, "whoever waited for it would wait for ever"
        (stalled,) = [socket for socket in system.gateway.node.registry.sockets if socket.pending is not None]
        assert stalled.pending is not None
        assert len(stalled.pending) == 1
        assert stalled.buffered_bytes() < 200_000
        await asleep.read_until({TOPIC: committed.version})
        assert asleep.states < versions / 2


async def test_s46_access_goes_by_the_newest_version_and_not_by_what_a_token_claims(system: System) -> None:
    """A token's tier is as old as the token; one that has ended is asked for anew, which is no denial."""
    payload = {"sub": "ann", "topics": [TOPIC], "iat": int(time.time()), "exp": int(time.time()) + 600}
    claims_pro = pyjwt.encode({**payload, "plan": "pro", "tier": "pro"}, SECRET, "HS256")
    claims_free = pyjwt.encode({**payload, "plan": "free", "tier": "free"}, SECRET, "HS256")

    def topics(jwt: str) -> str:
        # Each of these opens the one topic only; the fence needs its own.
        return pyjwt.encode(
            {**pyjwt.decode(jwt, SECRET, ["HS256"]), "topics": [TOPIC, FENCE]},
            SECRET,
            "HS256",
        )

    async with system.tab(jwt=topics(claims_free)) as tab, system.tab(jwt=topics(claims_pro)) as other:
        bought = await system.apply(event(ago(60)))
        await tab.reaches(bought)
        assert tab.plan == "pro"
        assert (await system.read(jwt=claims_free))["state"]["plan"]["key"] == "pro"
        ended = await system.apply(event(ago(50), kind="subscription.canceled", status="canceled"))
        await other.reaches(ended)
        assert other.plan == "free"
        fresh_enough = await system.read(jwt=claims_pro, min_version=str(ended))
        assert (fresh_enough["version"], fresh_enough["state"]["plan"]["key"]) == (ended, "free")
    # One that is renewed in time is never closed.
    async with system.tab(jwt=token(TOPIC, FENCE, ttl_s=SHORT_S, sub="ann")) as renewed:
        await renewed.reaches(ended)
        ends_s: int = next(frame for frame in renewed.frames if frame["type"] == "welcome")["token_expires_at"]
        await renewed.client.send("token", token=token(TOPIC, FENCE, ttl_s=600, sub="ann"))
        await renewed.next("welcome")
        # A token that ends while the tab is open: the close code asks for another, and with it the tab goes on.
        async with system.tab(jwt=token(TOPIC, FENCE, ttl_s=SHORT_S, sub="ann"), held=ended, state=tab.state) as tab:
            assert (await tab.next("current"))["version"] == ended
            assert (await tab.next("error"))["code"] == "token_expired"
            assert (await tab.client.closed())[0] == 4401
        async with system.tab(jwt=token(TOPIC, FENCE, ttl_s=600, sub="ann"), held=ended, state=tab.state) as tab:
            assert (await tab.next("current"))["version"] == ended
        await renewed.until(lambda tab: tab.frames[-1].get("at", 0) / 1e6 > ends_s + 1)
        assert [frame for frame in renewed.frames if frame["type"] == "error"] == []


async def test_s47_a_user_who_was_moved_out_of_a_tenant_gets_nothing_more(
    system: System, store_url: str, tmp_path: Path
) -> None:
    """On every server, within a second, while connected; and he does not get in again."""
    ann, bob = (token(TOPIC, FENCE, sub=sub) for sub in ("ann", "bob"))
    async with (
        run_system(store_url, tmp_path) as other,
        system.tab(jwt=ann) as tab,
        other.tab(jwt=ann) as second,
        system.tab(jwt=bob) as colleague,
        other.tab(jwt=bob) as renewed,
    ):
        held = await seats(system, 1)
        tabs = (tab, second, colleague, renewed)
        for each in tabs:
            await each.reaches(held)
        began = time.monotonic()
        answer = await system.http.post("/v1/sessions/revoke", json={"sub": "ann", "topic": TOPIC}, headers=system.key)
        assert answer.status_code == 200, answer.text
        for each in (tab, second):
            assert await each.next("gone") == {"type": "gone", "topic": TOPIC, "reason": "revoked"}
        assert time.monotonic() - began < 1.0 + BUSY_S
        await renewed.client.send("token", token=token(FENCE, sub="bob"))
        assert (await renewed.next("gone"))["reason"] == "revoked"
        newer = await seats(system, 2)
        await colleague.reaches(newer)
        for each in (tab, second, renewed):
            await each.fence()
            assert each.version == held
            assert each.frames[-1].get("version", held) == held
        async with system.tab(jwt=ann) as again:
            assert (await again.next("error"))["code"] == "forbidden"
            await again.fence()
            assert again.version == 0


async def test_s47_the_server_that_was_told_so_gives_up_its_sockets_however_late_the_bus_is(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = system.gateway.node.store.publish
    said: list[tuple[Any, Any]] = []

    async def keep(channel: Any, message: Any) -> int:
        said.append((channel, message))
        return 0

    async with system.tab(jwt=token(TOPIC, FENCE, sub="ann")) as tab:
        held = await seats(system, 1)
        await tab.reaches(held)
        with monkeypatch.context() as patched:
            patched.setattr(system.gateway.node.store, "publish", keep)
            answer = await system.http.post(
                "/v1/sessions/revoke", json={"sub": "ann", "topic": TOPIC}, headers=system.key
            )
            assert answer.status_code == 200, answer.text
            assert said
        await publish(*said[0])
        assert (await tab.next("gone"))["reason"] == "revoked"
        await seats(system, 2)
        await tab.fence()
        assert tab.version == held
        assert [frame["type"] for frame in tab.frames].count("gone") == 1


async def test_s48_the_tabs_of_one_tenant_never_see_a_frame_of_another(system: System) -> None:
    """Both on one process, each with a token for its own; asking for the other's is refused."""
    tokens = {name: token(f"tenant:{name}", FENCE, sub=name) for name in ("a", "b")}
    async with (
        system.tab("tenant:a", jwt=tokens["a"]) as a,
        system.tab("tenant:b", jwt=tokens["b"]) as b,
        system.tab("tenant:a", jwt=tokens["b"]) as curious,
    ):
        assert (await curious.next("error"))["code"] == "forbidden"
        for number in range(20):
            version = await system.apply(event(ago(60 - number), tenant="a", items=[("pri_pro", 40 + number)]))
        await a.reaches(version)
        for tab in (b, curious):
            await tab.fence()
            assert (tab.version, tab.state) == (0, None)
            named = [frame for frame in tab.frames if frame.get("topic") == "tenant:a"]
            assert [frame["type"] for frame in named] == (["error"] if tab is curious else [])
        await b.reaches(await system.apply(event(ago(60), tenant="b", items=[("pri_basic", 2)])))
        await a.fence()
        assert {frame.get("topic") for frame in a.frames} <= {"tenant:a", None}
        refused = await system.http.get("/v1/state/tenant:a", headers={"Authorization": f"Bearer {tokens['b']}"})
        assert refused.status_code == 403
