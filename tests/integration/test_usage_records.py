"""What is kept of usage: the newest calls, corrections, ended windows; the export of all tenants, over HTTP and CLI."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from click.testing import CliRunner, Result
from redis.asyncio import Redis

from gateway import cli
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.integration.test_usage import KEY, ask, entitle, gateway
from tests.support.gateway import PUBLISH_KEY, Running
from tests.support.servers import Server, start_valkey
from tests.support.usage import end_window
from tests.support.wait import until


@pytest.fixture
def server() -> Iterator[Server]:
    with start_valkey() as server:
        yield server


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Store]:
    store = connect(server.url).store
    yield store
    await store.aclose()


@pytest.fixture
async def running(server: Server, tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(server, tmp_path) as running:
        yield running


async def planwire(running: Running, *arguments: str) -> Result:
    env = {"PORT": str(running.port), "PLANWIRE_PUBLISH_KEY": PUBLISH_KEY, "PLANWIRE_DATA_DIR": "/nonexistent"}
    found = await asyncio.to_thread(CliRunner(env=env).invoke, cli.cli, ["usage", *arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


async def exported(running: Running, **query: str | int) -> dict[str, Any]:
    async with httpx2.AsyncClient(base_url=running.url, headers=KEY) as http:
        answer = await http.get("/v1/usage/export", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_history_has_calls_corrections_and_windows_of_one_meter(running: Running, store: Store) -> None:
    await ask(running, "/api_calls/consume", {"amount": 2, "key": "order-1"})
    await ask(running, "/api_calls/consume", {"amount": 2, "key": "order-2"})
    await ask(running, "/seats/set", {"amount": 1})
    await ask(running, "/api_calls/adjust", {"by": -1, "reason": "counted twice"})
    await end_window(store, "acme", "api_calls", used=3)
    await ask(running, "/api_calls/consume", {})
    found = await ask(running, "/api_calls/history")
    calls = [(one["operation"], one["amount"], one["allowed"], one.get("key")) for one in found["calls"]]
    assert calls == [
        ("consume", 1, True, None),
        ("adjust", -1, True, None),
        ("consume", 2, False, "order-2"),
        ("consume", 2, True, "order-1"),
    ]
    (correction,) = found["corrections"]
    assert (correction["operation"], correction["how"], correction["amount"]) == ("adjust", "by", -1)
    assert (correction["used"], correction["reason"], correction["by"]) == (1, "counted twice", "tests")
    (window,) = found["windows"]
    assert (window["used"], window["limit"]) == (3, 3)
    assert await ask(running, "/exports/history") == {"calls": [], "corrections": [], "windows": []}


async def test_history_knows_a_meter_that_the_catalog_has_no_more_and_no_other(running: Running, store: Store) -> None:
    await ask(running, "/api_calls/consume", {})
    await store.redis.xadd(
        store.keys.usage("tenant:acme", "periods"),
        {"meter": "faxes", "kind": "consumable", "starts": 1, "ends": 2, "used": 9, "limit": ""},
    )
    (window,) = (await ask(running, "/faxes/history"))["windows"]
    assert (window["used"], "limit" in window) == (9, False)
    assert (await ask(running, "/apicalls/history", None, 404))["code"] == "meter_unknown"


async def test_all_tenants_are_exported_page_by_page(running: Running, store: Store) -> None:
    for number in range(5):
        await ask(running, "/api_calls/consume", {"amount": 1 + number % 3}, tenant=f"t{number}")
    found, after = [], ""
    for expected in (2, 2, 1):
        page = await exported(running, limit=2, **({"after": after} if after else {}))
        tenants = {row["tenant"] for row in page["counters"]}
        assert len(tenants) == expected
        found += page["counters"]
        after = page.get("next", "")
    assert after == ""
    counts = {row["tenant"]: (row["used"], row["limit"], row["open"]) for row in found if row["meter"] == "api_calls"}
    assert counts == {f"t{number}": (1 + number % 3, 3, True) for number in range(5)}


async def test_a_window_that_ended_unnoticed_is_exported_as_ended(running: Running, store: Store) -> None:
    await ask(running, "/api_calls/consume", {})
    await end_window(store, "acme", "api_calls", used=2)
    rows = [row for row in (await exported(running))["counters"] if row["meter"] == "api_calls"]
    ended, is_open = sorted(rows, key=lambda row: row["open"])
    assert (ended["used"], ended["limit"], ended["open"]) == (2, 3, False)
    assert (is_open["used"], is_open["open"], is_open["starts_at"]) == (0, True, ended["ends_at"])
    later = await exported(running, since=ended["ends_at"])
    assert not [row for row in later["counters"] if not row["open"]]
    earlier = await exported(running, until=is_open["starts_at"])
    assert [row["meter"] for row in earlier["counters"] if row["meter"] != "seats"] == ["api_calls"]


async def test_a_meter_that_is_removed_is_left_out_and_is_there_again_if_it_comes_back(
    server: Server, tmp_path: Path
) -> None:
    async with gateway(server, tmp_path) as running:
        await ask(running, "/api_calls/consume", {"amount": 2})
        path = tmp_path / "catalog.toml"
        whole = path.read_text()
        for meter, expected in (("calls", []), ("api_calls", [(2, 3)])):
            path.write_text(whole.replace("[meters.api_calls]", f'[meters.{meter}]\nlimit = "api_calls"'))

            async def is_read(meter: str = meter) -> bool:
                return meter in (await ask(running, ""))["meters"]

            await until(is_read, timeout_s=30, every_s=0.1)
            rows = (await exported(running))["counters"]
            assert [(row["used"], row["limit"]) for row in rows if row["meter"] == "api_calls"] == expected


async def test_credits_count_in_the_window_in_which_they_are_used(running: Running, store: Store) -> None:
    await entitle(store, ai=5)
    await ask(running, "/ai/grant", {"amount": 10, "reason": "welcome"})
    await ask(running, "/ai/consume", {"amount": 8})
    await end_window(store, "acme", "ai", used=5, of_credits=3)
    await ask(running, "/ai/consume", {"amount": 7})
    rows = {row["open"]: row for row in (await exported(running))["counters"] if row["meter"] == "ai"}
    assert (rows[False]["used"], rows[True]["used"]) == (8, 7)
    assert (await ask(running, ""))["meters"]["ai"]["counted"] == 7


async def test_an_erased_tenant_leaves_the_list(running: Running, store: Store, server: Server) -> None:
    await entitle(store, api_calls=3)
    await ask(running, "/api_calls/consume", {})
    await ask(running, "/api_calls/consume", {}, tenant="other")
    async with httpx2.AsyncClient(base_url=running.url, headers=KEY) as http:
        assert (await http.request("DELETE", "/v1/tenants/acme", json={"reason": "asked"})).status_code == 200
    async with Redis.from_url(server.url) as redis:
        assert await redis.zrange("pw:{tenants/live}:usage", 0, -1) == [b"tenant:other"]
        await redis.zadd("pw:{tenants/live}:usage", {"tenant:acme": 0})  # as a call that ran at the same time would
        assert {row["tenant"] for row in (await exported(running))["counters"]} == {"other"}
        assert await redis.zrange("pw:{tenants/live}:usage", 0, -1) == [b"tenant:other"]


async def test_to_ask_about_a_tenant_that_nobody_knows_keeps_nothing(running: Running, server: Server) -> None:
    shown = await ask(running, "", tenant="acmee")
    assert (shown["version"], shown["meters"]["api_calls"]["used"], shown["meters"]["api_calls"]["limit"]) == (0, 0, 3)
    assert (await ask(running, "/seats", tenant="acmee"))["remaining"] == 1
    async with Redis.from_url(server.url) as redis:
        assert [key async for key in redis.scan_iter("pw:*acmee*")] == []
    assert (await exported(running))["counters"] == []
    await ask(running, "/api_calls/consume", {}, tenant="acmee")
    assert (await ask(running, "", tenant="acmee"))["meters"]["api_calls"]["used"] == 1
    assert {row["tenant"] for row in (await exported(running))["counters"]} == {"acmee"}


async def test_a_tenant_that_has_only_usage_can_be_erased(running: Running, server: Server) -> None:
    await ask(running, "/api_calls/consume", {})
    async with httpx2.AsyncClient(base_url=running.url, headers=KEY) as http:
        assert (await http.request("DELETE", "/v1/tenants/none", json={"reason": "asked"})).status_code == 404
        erased = await http.request("DELETE", "/v1/tenants/acme", json={"reason": "asked"})
    assert erased.status_code == 200, erased.text
    assert (await ask(running, "/api_calls/consume", {}, 409))["code"] == "tenant_erased"
    assert (await exported(running))["counters"] == []
    async with Redis.from_url(server.url) as redis:
        assert [key async for key in redis.scan_iter("pw:{tenant:acme}:usage:*")] == [b"pw:{tenant:acme}:usage:snap"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"since": "yesterday"}, "since"),
        ({"limit": "101"}, "limit"),
        ({"after": "a b"}, "after"),
        ({"env": "x"}, "env"),
        ({"since": "2027-02-01T00:00:00Z", "until": "2027-01-01T00:00:00Z"}, "since must be earlier than until"),
    ],
)
async def test_a_wrong_query_is_told(running: Running, query: dict[str, str], says: str) -> None:
    async with httpx2.AsyncClient(base_url=running.url, headers=KEY) as http:
        answer = await http.get("/v1/usage/export", params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert says in answer.json()["detail"]


class TestCommands:
    async def test_show_says_what_is_left_and_what_is_not_known(self, running: Running, store: Store) -> None:
        await entitle(store, api_calls=10, seats="unlimited")
        await ask(running, "/api_calls/consume", {"amount": 4})
        lines = (await planwire(running, "show", "acme")).output.splitlines()
        assert lines[0].split() == ["meter", "used", "reserved", "limit", "remaining", "status", "resets_at", "credits"]
        rows = {line.split()[0]: line.split() for line in lines[1:]}
        assert rows["api_calls"][1:6] == ["4", "0", "10", "6", "ok"]
        assert rows["seats"][3:5] == ["unlimited", "unlimited"]
        state = orjson.dumps({"limits": {}})
        await store.redis.delete("pw:{tenant:acme}:snap")
        async with httpx2.AsyncClient(base_url=running.url, headers=KEY) as http:
            await http.post("/v1/publish", json={"topic": "tenant:mine", "state": orjson.loads(state)})
        assert "not known  not known  unknown" in (await planwire(running, "show", "mine")).output

    async def test_consume_denied_exits_1(self, running: Running) -> None:
        done = await planwire(running, "consume", "acme", "api_calls", "3", "--once", "k")
        assert (done.exit_code, done.output[:34]) == (0, "allowed: 3 of 3 used, 0 left, rese")
        denied = await planwire(running, "consume", "acme", "api_calls")
        assert (denied.exit_code, denied.output[:27]) == (1, "denied: 3 of 3 used, 0 left")
        again = await planwire(running, "consume", "acme", "api_calls", "3", "--once", "k")
        assert "counted earlier under this key" in again.output

    async def test_adjust_and_grant_are_in_the_history(self, running: Running, store: Store) -> None:
        await entitle(store, ai=5, api_calls=3)
        await planwire(running, "adjust", "acme", "api_calls", "--to", "2", "--reason", "as counted")
        done = await planwire(running, "adjust", "acme", "api_calls", "--change", "-1", "--reason", "one too many")
        assert (done.exit_code, done.output[:22]) == (0, "corrected: 1 of 3 used")
        shown = (await planwire(running, "history", "acme", "api_calls")).output
        assert "one too many" in shown
        assert "as counted" in shown
        granted = await planwire(running, "grant", "acme", "ai", "20", "--until", "30d", "--reason", "sorry")
        assert granted.output.startswith("granted: 0 of 25 used, 25 left")
        both = await planwire(running, "adjust", "acme", "ai", "--to", "2", "--change", "1", "--reason", "x")
        assert (both.exit_code, "give one of --to and --change" in both.output) == (2, True)
        unknown = await planwire(running, "consume", "acme", "apicalls")
        assert (unknown.exit_code, "the catalog has no such meter" in unknown.output) == (2, True)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("consume", "acme", ""), "`planwire usage show TENANT` lists the meters"),
            (("consume", "acme", "API calls"), "`planwire usage show TENANT` lists the meters"),
            (("consume", "acme", "api_calls", "--once", "a b"), "no blank"),
            (("consume", "", "api_calls"), "give the tenant's id"),
            (("history", "acme", "apicalls"), "the catalog has no such meter"),
            (("grant", "acme", "ai", "5", "--until", "2020-01-01", "--reason", "x"), "ends_at has passed"),
            (("export", "--since", "2027-02-01", "--until", "2027-01-01"), "since must be earlier than until"),
            (("export", "--since", "30d"), "neither a time such as 2027-01-31T12:00:00Z nor a date"),
            (("show", "acme", "--env", "mars"), "env must be one of live"),
        ],
    )
    async def test_wrong_input_says_what_to_do(self, running: Running, arguments: tuple[str, ...], says: str) -> None:
        found = await planwire(running, *arguments)
        assert found.exit_code == 2
        assert says in found.stderr.splitlines()[-1]

    async def test_it_says_when_nothing_is_known_of_a_tenant(self, running: Running, store: Store) -> None:
        await entitle(store, api_calls=3)
        assert not (await planwire(running, "show", "acme")).stderr
        for arguments in (("show", "acmee"), ("consume", "acmee", "api_calls")):
            assert "no state: the limits are those of the default plan" in (await planwire(running, *arguments)).stderr

    async def test_export_is_csv_or_lines_of_json(self, running: Running, store: Store) -> None:
        await ask(running, "/api_calls/consume", {}, tenant="=1+1")
        await ask(running, "/api_calls/consume", {"amount": 2}, tenant="acme, inc")
        await end_window(store, "acme%2C%20inc", "api_calls", used=2)
        found = await planwire(running, "export", "--meter", "api_calls")
        rows = list(csv.DictReader(io.StringIO(found.stdout)))
        assert [(row["tenant"], row["used"], row["open"]) for row in rows] == [
            ("'=1+1", "1", "true"),
            ("acme, inc", "2", "false"),
            ("acme, inc", "0", "true"),
        ]
        lines = (await planwire(running, "export", "--ended", "--json")).stdout.splitlines()
        (row,) = map(orjson.loads, lines)
        assert (row["tenant"], row["used"], row["limit"], row["open"]) == ("acme, inc", 2, 3, False)
