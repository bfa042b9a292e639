"""The command line as people use it: a process of its own against a gateway that serves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import orjson
import pytest

from gateway.auth.claims import Claims
from gateway.auth.tokens import Auth
from gateway.auth.verify_keys import KeySet, secret_keys
from planwire_client import tenant_reference
from sync.billing.catalog.watcher import EXAMPLE
from sync.store.models import Change
from sync.store.store import Store
from tests.support import bodies
from tests.support.gateway import PUBLISH_KEY, SECRET, Running, environment, run_gateway, token
from tests.support.servers import free_port
from tests.support.wait import until

ROOT = Path(__file__).parents[2]
TOPIC = "tenant:acme"


@pytest.fixture
async def running(store_url: str) -> AsyncIterator[Running]:
    async with run_gateway(environment(store_url)) as gateway:
        yield gateway


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path


def write_dev_env(data_dir: Path, text: str) -> None:
    (data_dir / "dev.env").write_text(text)


class Cli:
    """One run of `planwire`: its output so far, and its exit."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.errors: list[str] = []

    async def _collect(self, stream: asyncio.StreamReader | None, into: list[str]) -> None:
        assert stream is not None
        while line := await stream.readline():
            into.append(line.decode().rstrip("\n"))

    async def collect(self) -> None:
        await asyncio.gather(
            self._collect(self.process.stdout, self.lines), self._collect(self.process.stderr, self.errors)
        )


@asynccontextmanager
async def started(data_dir: Path, *arguments: str, stdin: str = "", **environ: str) -> AsyncIterator[Cli]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PLANWIRE_") and name != "PORT"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", *arguments,
        cwd=ROOT, env={**clean, "PLANWIRE_DATA_DIR": str(data_dir), **environ},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(stdin.encode())
    process.stdin.close()
    run = Cli(process)
    collecting = asyncio.create_task(run.collect())
    try:
        yield run
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await collecting


async def planwire(
    data_dir: Path, *arguments: str, stdin: str = "", **environ: str
) -> tuple[int, list[str], list[str]]:
    """Return exit status, lines of output, lines of errors of a run that ends."""
    async with started(data_dir, *arguments, stdin=stdin, **environ) as run, asyncio.timeout(60):
        await run.process.wait()
    assert run.process.returncode is not None
    return run.process.returncode, run.lines, run.errors


def settings(running: Running) -> dict[str, str]:
    return {"PORT": str(running.port), "PLANWIRE_PUBLISH_KEY": PUBLISH_KEY, "PLANWIRE_JWT_SECRET": SECRET}


class TestToken:
    async def test_it_prints_a_token_and_nothing_else(self, data_dir: Path) -> None:
        status, lines, errors = await planwire(
            data_dir, "token", "--topic", TOPIC, "--topic", "user:1", "--scope", "read", "--scope", "private",
            "--ttl", "60", "--sub", "me", "--jti", "t1", PLANWIRE_JWT_SECRET=f"{SECRET},{SECRET[::-1]}",
        )  # fmt: skip
        assert (status, len(lines), errors) == (0, 1, [])
        claims = Auth(KeySet(secret_keys([SECRET]))).verify(lines[0], time.time())
        assert isinstance(claims, Claims)
        assert (claims.sub, claims.topics, claims.scope, claims.jti) == (
            "me",
            (TOPIC, "user:1"),
            ("read", "private"),
            "t1",
        )
        assert 50 < claims.exp - time.time() <= 60

    async def test_the_secret_may_come_from_the_development_file(self, data_dir: Path) -> None:
        write_dev_env(data_dir, f"# made by make run\nPLANWIRE_JWT_SECRET={SECRET}\n\nPORT=1\n")
        status, lines, _ = await planwire(data_dir, "token", "--topic", "*")
        assert (status, len(lines)) == (0, 1)
        assert isinstance(Auth(KeySet(secret_keys([SECRET]))).verify(lines[0], time.time()), Claims)

    async def test_the_environment_wins_over_the_file(self, data_dir: Path) -> None:
        write_dev_env(data_dir, f"PLANWIRE_JWT_SECRET={SECRET[::-1]}\n")
        _, lines, _ = await planwire(data_dir, "token", "--topic", "*", PLANWIRE_JWT_SECRET=SECRET)
        assert isinstance(Auth(KeySet(secret_keys([SECRET]))).verify(lines[0], time.time()), Claims)

    async def test_a_tenant_reference_is_signed_with_the_first_secret(self, data_dir: Path) -> None:
        secrets = f"{SECRET},{SECRET[::-1]}"
        asked = "token", "--tenant", "auth0|5f1c", "--env", "sandbox"
        status, lines, errors = await planwire(data_dir, *asked, PLANWIRE_TENANT_SECRET=secrets)
        assert (status, lines, errors) == (0, [tenant_reference(SECRET, "auth0|5f1c", "sandbox")], [])
        named = "token", "--tenant", "sandbox/tenant:auth0%7C5f1c"
        assert (await planwire(data_dir, *named, PLANWIRE_TENANT_SECRET=secrets))[1] == lines

    async def test_its_secret_may_come_from_the_development_file(self, data_dir: Path) -> None:
        write_dev_env(data_dir, f"X_PLANWIRE_TENANT_SECRET={SECRET}\n")
        status, lines, _ = await planwire(data_dir, "token", "--tenant", "acme")
        assert (status, lines) == (0, [tenant_reference(SECRET, "acme")])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "nonsense"),
        (["token"], "--topic"),
        (["token", "--topic", TOPIC, "--tenant", "acme"], "either --topic"),
        (["token", "--tenant", "acme", "--ttl", "60"], "does not expire"),
        (["token", "--tenant", "x" * 129], "has 129 bytes: an id has at most 128"),
        (["token", "--tenant", "undefined"], "'undefined' names nobody"),
        (["token", "--topic", "acme"], "'acme' is not a topic"),
        (["token", "--topic", "*", "--scope", "write"], "'write'"),
        (["token", "--topic", "*", "--ttl", "0"], "--ttl"),
        (["publish", TOPIC], "JSON"),
        (["publish", TOPIC, "{"], "not JSON"),
        (["publish", "*", "{}"], "'*' is not a topic"),
        (["publish", TOPIC, "{}", "--private", "x"], "not JSON"),
        (["publish", TOPIC, '{"id":18446744073709551616}'], "send an integer beyond 64 bits as a string"),
        (["publish", TOPIC, "{}", "--url", "ftp://x"], "--url"),
        (["watch"], "TOPIC"),
        (["watch", "acme"], "'acme' is not a topic"),
        (["watch", TOPIC, "--count", "0"], "--count"),
        (["simulate"], "ACTION"),
        (["simulate", "upgrade"], "--tenant"),
        (["simulate", "upgrade", "--tenant", "acme", "--seed", "1"], "--scenario"),
        (["simulate", "upgrade", "--scenario", "duplicate"], "--scenario"),
        (["simulate", "--scenario", "none.toml"], "the bundled scenarios are: "),
        (["simulate", "--scenario", "duplicate"], "PLANWIRE_PADDLE_SECRETS=live:"),
        (["parked", "--limit", "0"], "--limit"),
        (["simulate", "upgrade", "--tenant", "acme"], "PLANWIRE_SIMULATOR_URL"),
        (["simulate", "upgrade", "--tenant", "acme", "--url", "http://x", "--set", "nonsense"], "NAME=VALUE"),
    ],
)  # fmt: skip
async def test_bad_input_is_one_line_and_exit_2(data_dir: Path, arguments: list[str], says: str) -> None:
    secrets = {"PLANWIRE_JWT_SECRET": SECRET, "PLANWIRE_TENANT_SECRET": SECRET, "PLANWIRE_PUBLISH_KEY": PUBLISH_KEY}
    status, lines, errors = await planwire(data_dir, *arguments, **secrets)
    assert (status, lines, len(errors)) == (2, [], 1)
    assert says in errors[0]


@pytest.mark.parametrize(
    "arguments", [["token", "--topic", "*"], ["publish", TOPIC, "{}"], ["watch", TOPIC], ["parked"]]
)
async def test_a_missing_secret_is_named(data_dir: Path, arguments: list[str]) -> None:
    status, _, errors = await planwire(data_dir, *arguments)
    assert (status, len(errors)) == (2, 1)
    assert "PLANWIRE_JWT_SECRET" in errors[0] or "PLANWIRE_PUBLISH_KEY" in errors[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["publish", TOPIC, "{}"],
        ["watch", TOPIC],
        ["parked"],
        ["parked", "--retry", "evt_1"],
        ["simulate", "upgrade", "--tenant", "a", "--url", "http://127.0.0.1:1"],
        ["simulate", "--scenario", "duplicate"],
        ["simulate", "--scenario", "duplicate", "--target", "http://127.0.0.1:1/webhooks"],
    ],
)
async def test_when_nothing_answers_one_line_says_so(data_dir: Path, arguments: list[str]) -> None:
    status, lines, errors = await planwire(
        data_dir, *arguments, PORT=str(free_port()), PLANWIRE_JWT_SECRET=SECRET, PLANWIRE_PUBLISH_KEY=PUBLISH_KEY,
        PLANWIRE_PADDLE_SECRETS="live:pdl_ntfset_live",
    )  # fmt: skip
    assert (status, lines, len(errors)) == (1, [], 1)
    assert "make run" in errors[0] or "is it running" in errors[0]


COMMANDS = (
    *("token", "publish", "watch", "simulate", "parked", "settings", "dev", "backfill", "outbox"),
    *("trace", "top", "log", "diff", "drift"),
    *("link", "links", "grant", "overrides", "revive", "catalog", "shadow", "usage"),
)


@pytest.mark.parametrize("command", COMMANDS)
async def test_every_command_explains_itself_with_an_example(data_dir: Path, command: str) -> None:
    status, lines, _ = await planwire(data_dir, command, "--help")
    assert status == 0
    assert any("Example:" in line and f"planwire {command}" in line for line in lines)


async def test_the_list_of_commands_is_complete(data_dir: Path) -> None:
    status, lines, _ = await planwire(data_dir, "--help")
    assert status == 0
    shown = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :] if line.strip()]
    assert sorted(shown) == sorted(COMMANDS)
    status, _, errors = await planwire(data_dir)
    assert status == 2
    assert errors[0].startswith("Usage: planwire")


class TestPublish:
    async def test_verdicts(self, running: Running, data_dir: Path, store: Store) -> None:
        env = settings(running)
        status, lines, errors = await planwire(
            data_dir, "publish", TOPIC, '{"plan":"pro"}', "--private", "[1]", "--event-id", "e1", "--order", "5", **env
        )
        assert (status, errors) == (0, [])
        snapshot = await store.read(TOPIC)
        assert lines == [f"applied {snapshot.version}"]
        assert (snapshot.state, snapshot.private) == (b'{"plan":"pro"}', b"[1]")
        for verdict, expected, arguments in (
            ("duplicate", 0, ["2", "--event-id", "e1"]),
            ("stale", 0, ["2", "--order", "5"]),
            ("conflict", 1, ["2", "--if-version", "7"]),
        ):
            status, lines, _ = await planwire(data_dir, "publish", TOPIC, *arguments, **env)
            assert (status, lines) == (expected, [f"{verdict} {snapshot.version}"])

    @pytest.mark.parametrize("given", ["null", "0", '"x"', "-"])
    async def test_any_json_from_argument_or_input(
        self, running: Running, data_dir: Path, store: Store, given: str
    ) -> None:
        status, _, errors = await planwire(data_dir, "publish", TOPIC, given, stdin=' {"a": 1} ', **settings(running))
        assert (status, errors) == (0, [])
        expected = {"a": 1} if given == "-" else json.loads(given)
        assert orjson.loads((await store.read(TOPIC)).state) == expected

    async def test_what_the_gateway_refuses_is_one_line(self, running: Running, data_dir: Path) -> None:
        env = settings(running)
        status, lines, errors = await planwire(data_dir, "publish", "probe:x", "1", **env)
        assert (status, lines, len(errors)) == (1, [], 1)
        assert "topic_reserved" in errors[0]
        status, _, errors = await planwire(data_dir, "publish", TOPIC, json.dumps("x" * 33_000), **env)
        assert (status, len(errors)) == (2, 1)
        assert "state_too_large" in errors[0]
        status, _, errors = await planwire(data_dir, "publish", TOPIC, "1", "--key-file", "-", stdin="wrong\n", **env)
        assert (status, len(errors)) == (1, 1)
        assert "key_invalid" in errors[0]


class TestWatch:
    async def test_it_prints_each_version_as_it_comes(self, running: Running, data_dir: Path, store: Store) -> None:
        first = (await store.commit(Change(TOPIC, b'{"n":1}', cause=b'{"event_id":"e1"}'))).version
        async with started(data_dir, "watch", TOPIC, "--json", "--count", "2", **settings(running)) as run:
            await until(lambda: run.lines, timeout_s=30)
            second = (await store.commit(Change(TOPIC, b'{"n":2}'))).version
            async with asyncio.timeout(30):
                await run.process.wait()
        assert run.process.returncode == 0
        assert [json.loads(line) for line in run.lines] == [
            {"topic": TOPIC, "version": first, "state": {"n": 1}, "cause": {"event_id": "e1"}},
            {"topic": TOPIC, "version": second, "state": {"n": 2}},
        ]
        assert running.node.metrics.acks >= 1

    async def test_patches_are_applied(self, running: Running, data_dir: Path, store: Store) -> None:
        state = {f"feature{n}": True for n in range(60)}
        await store.commit(Change(TOPIC, orjson.dumps(state)))
        async with started(data_dir, "watch", TOPIC, "--json", "--count", "2", **settings(running)) as run:
            await until(lambda: run.lines, timeout_s=30)
            changed = orjson.dumps({**state, "feature7": False})
            await store.commit(Change(TOPIC, changed, previous=await store.read(TOPIC)))
            async with asyncio.timeout(30):
                await run.process.wait()
        assert json.loads(run.lines[1])["state"] == {**state, "feature7": False}

    async def test_lines_for_people(self, running: Running, data_dir: Path, store: Store) -> None:
        async with started(data_dir, "watch", TOPIC, "--count", "2", **settings(running)) as run:
            await until(lambda: run.lines, timeout_s=30)
            version = (await store.commit(Change(TOPIC, b'{"plan":"pro"}'))).version
            async with asyncio.timeout(30):
                await run.process.wait()
        assert run.lines[0].split() == ["-", "0", "null"]
        instant, shown, state = run.lines[1].split(" ")
        assert (shown, state) == (str(version), '{"plan":"pro"}')
        assert instant.endswith("Z")
        assert len(instant) == 27

    async def test_it_reconnects_and_goes_on_where_it_was(self, store_url: str, data_dir: Path, store: Store) -> None:
        environ = environment(store_url, PORT=str(free_port()))
        await store.commit(Change(TOPIC, b"1"))
        async with AsyncExitStack() as stack:
            async with run_gateway(environ) as running:
                run = await stack.enter_async_context(started(data_dir, "watch", TOPIC, **settings(running)))
                await until(lambda: run.lines, timeout_s=30)
            await until(lambda: any("trying again" in line for line in run.errors), timeout_s=30)
            await store.commit(Change(TOPIC, b"2"))
            async with run_gateway(environ):
                await until(lambda: len(run.lines) == 2, timeout_s=60)
                run.process.send_signal(signal.SIGINT)
                await run.process.wait()
        assert [line.split()[2] for line in run.lines] == ["1", "2"]
        assert run.process.returncode == 130

    async def test_a_refused_token_ends_it(self, running: Running, data_dir: Path) -> None:
        for given, says in ((token("tenant:other"), "forbidden"), ("nonsense", "token_malformed")):
            status, lines, errors = await planwire(
                data_dir, "watch", TOPIC, "--token-file", "-", stdin=given, **settings(running)
            )
            assert (status, lines, len(errors)) == (1, [], 1)
            assert says in errors[0]


SECRETS = "live:pdl_ntfset_live,sandbox:pdl_ntfset_sandbox"
SCENARIO = """
title = "Short"
tenants = 2
history = [{ do = "upgrade", plan = "pro" }, { do = "seats", quantity = 4 }]
[faults]
duplicate = 1
"""


@pytest.fixture
async def taking(store_url: str) -> AsyncIterator[Running]:
    """A gateway that takes webhooks."""
    environ = environment(store_url, INTAKE="1", PADDLE_SECRETS=SECRETS, CATALOG=str(EXAMPLE))
    async with run_gateway(environ) as gateway:
        yield gateway


class TestScenario:
    async def run(self, taking: Running, data_dir: Path, *arguments: str) -> tuple[int, list[str], list[str]]:
        (data_dir / "short.toml").write_text(SCENARIO)
        given = {**settings(taking), "PLANWIRE_PADDLE_SECRETS": SECRETS, "PLANWIRE_CATALOG": str(EXAMPLE)}
        return await planwire(data_dir, "simulate", "--scenario", str(data_dir / "short.toml"), *arguments, **given)

    async def test_the_local_gateway_comes_through(self, taking: Running, data_dir: Path) -> None:
        status, lines, errors = await self.run(taking, data_dir, "--seed", "7")
        assert (status, errors) == (0, [])
        assert lines[0] == "Short (seed 7): ok"
        assert "  checked: answers and the state of 2 tenants" in lines

    async def test_its_report_as_json(self, taking: Running, data_dir: Path) -> None:
        status, lines, _ = await self.run(taking, data_dir, "--json")
        report = json.loads("".join(lines))
        assert (status, report["seed"], report["tenants"], report["violations"]) == (0, 1, 2, [])

    async def test_another_receiver_is_checked_by_its_answers(self, taking: Running, data_dir: Path) -> None:
        other = taking.url.replace("127.0.0.1", "localhost")
        status, lines, _ = await self.run(taking, data_dir, "--target", f"{other}/webhooks/paddle")
        assert (status, lines[3]) == (0, "  checked: answers only")

    async def test_a_receiver_that_is_wrong_exits_1(self, taking: Running, data_dir: Path) -> None:
        other = taking.url.replace("127.0.0.1", "localhost")
        status, lines, errors = await self.run(taking, data_dir, "--target", f"{other}/healthz")
        assert (status, errors) == (1, [])
        assert any("violation" in line and "405 method_not_allowed" in line for line in lines)


class TestParked:
    async def test_they_are_listed_with_the_reason_and_tried_again(self, taking: Running, data_dir: Path) -> None:
        env = settings(taking)
        status, lines, _ = await planwire(data_dir, "parked", **env)
        assert (status, lines) == (0, ["no event is parked (failed items of other queues: planwire parked items)"])
        event_ids = [await self.park(taking, "pdl_ntfset_sandbox") for _ in range(3)]
        status, lines, errors = await planwire(data_dir, "parked", "--env", "sandbox", **env)
        assert (status, errors, len(lines)) == (0, [], 4)
        assert lines[0].split() == ["parked_at", "event_id", "type", "topic", "attempts", "reason"]
        assert [line.split()[1] for line in lines[1:]] == event_ids
        assert all(line.split()[2:4] == ["subscription.updated", "-"] for line in lines[1:])
        status, lines, _ = await planwire(data_dir, "parked", "--env", "sandbox", "--json", "--limit", "2", **env)
        assert [json.loads(line)["event_id"] for line in lines] == event_ids[:2]
        status, lines, _ = await planwire(data_dir, "parked", "--env", "sandbox", "--retry", event_ids[0], **env)
        assert (status, lines[0].split()[0]) == (0, "parked")

    async def test_what_is_refused_is_one_line(self, taking: Running, data_dir: Path) -> None:
        for arguments, expected, code in (
            (["--env", "nowhere"], 2, "request_invalid"),
            (["--retry", "evt_none"], 1, "not_found"),
            (["--key-file", "-"], 1, "key_invalid"),
        ):
            status, lines, errors = await planwire(data_dir, "parked", *arguments, stdin="wrong", **settings(taking))
            assert (status, lines, len(errors)) == (expected, [], 1)
            assert code in errors[0]

    async def park(self, taking: Running, secret: str) -> str:
        """Have one event taken that names no tenant; return its id."""
        event = bodies.envelope(bodies.subscription(tenant=None, items=[]))
        body = json.dumps(event).encode()
        headers = {"Paddle-Signature": bodies.signature(body, int(time.time()), secret)}
        async with httpx2.AsyncClient(base_url=taking.url, trust_env=False) as client:
            response = await client.post("/webhooks/paddle", content=body, headers=headers)
        assert response.json()["outcome"] == "parked"
        return str(event["event_id"])
