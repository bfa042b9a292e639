"""The console's terminal twin: processes of their own against two gateways that serve."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.fleet import ask
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.store import Store
from tests.support.console import TOKEN, TOPIC, commit, seen_by_each_other
from tests.support.gateway import Running, environment, open_client, run_gateway, token
from tests.support.wait import until

ROOT = Path(__file__).parents[2]
ESCAPE = "\x1b[31mred\x07"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gateway.cli", *arguments]


def environ_of(running: Running | None, data_dir: Path, token: str = TOKEN) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PLANWIRE_") and name != "PORT"}
    port = {} if running is None else {"PORT": str(running.port)}
    return clean | port | {"PLANWIRE_DATA_DIR": str(data_dir), "PLANWIRE_CONSOLE_TOKEN": token, "TERM": "xterm"}


async def planwire(environ: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Return exit status, output and errors of a run that ends."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command(*arguments), cwd=ROOT, env=environ, stdout=pipe, stderr=pipe
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


@asynccontextmanager
async def two_gateways(store_url: str) -> AsyncIterator[tuple[Running, Running]]:
    environ = environment(store_url, CONSOLE_TOKEN=TOKEN, ACK_AFTER_MS="0")
    first = environ | {
        "PLANWIRE_INTAKE": "1",
        "PLANWIRE_CATALOG": "sync/billing/catalog/example.toml",
        "PLANWIRE_PADDLE_SECRETS": "live:x",
    }
    async with run_gateway(first) as one, run_gateway(environ) as two:
        await seen_by_each_other(one, two)
        yield one, two


async def test_the_chain_as_text_and_what_exit_codes_say(
    store_url: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "ANSWER_S", 4.0)  # who answers slowly here is not silent
    await commit(store, {"plan": "free", "seats": 1})
    cause = {
        "event_type": "subscription.created",
        "event_id": f"evt_1{ESCAPE}",
        "occurred_at": "2026-01-01T00:00:00Z",
        "received_at": "2026-01-01T00:00:01Z",
    }
    version = await commit(store, {"plan": "pro", "seats": 1}, cause=json.dumps(cause).encode())
    note = {"event_id": "evt_9", "type": "t", "outcome": "parked", "reason": f"price_unknown {ESCAPE}", "at": "5"}
    await store.redis.xadd(keys.events(TOPIC), dict(note.items()))
    async with (
        two_gateways(store_url) as (one, two),
        open_client(two, TOPIC, jwt=token(sub=ESCAPE)) as tab,
    ):
        environ = environ_of(one, tmp_path)
        await tab.until("snapshot")
        await tab.send("ack", topic=TOPIC, version=version)
        await until(lambda: two.node.metrics.acks)
        (status, output, errors), diff, versions, drift = await asyncio.gather(
            planwire(environ, "trace", "acme"),
            planwire(environ, "diff", TOPIC),
            planwire(environ, "log", "acme"),
            planwire(environ, "drift", "--json"),
        )
        assert (status, errors) == (0, "")
        lines = output.splitlines()
        assert lines[0].startswith(f"{TOPIC}  version {version}, ")
        assert lines[1].split()[:2] == ["occurred", "2026-01-01T00:00:00Z"]
        assert lines[2].split()[2:4] == ["+1.0", "s"]
        assert lines[3].split()[0] == "committed"
        assert lines[4] == f"  gateway {two.node.name}  SYNCED  1 tabs  It has the newest version."
        assert lines[5].strip().startswith("SYNCED ")
        assert f"acked {version}" in lines[5]
        assert "parked" in lines[6]
        assert "\x1b" not in output
        assert "\x07" not in output
        assert diff == (0, '~ /plan  "free" -> "pro"\n', "")
        assert versions[0] == 0
        assert versions[1].splitlines()[1].split()[1] == str(version)
        assert versions[1].splitlines()[1].endswith("/plan")
        assert drift == (0, "", "")

        newer = await commit(store, {"plan": "team", "seats": 1})
        await tab.until("snapshot")
        await tab.send("nack", topic=TOPIC, version=newer, reason=f"cannot paint {ESCAPE}")
        await until(lambda: two.node.metrics.nacks == 1)
        text, as_json, top = await asyncio.gather(
            planwire(environ, "trace", "acme"),
            planwire(environ, "trace", TOPIC, "--json"),
            planwire(environ, "top", "--once"),
        )
        assert text[0] == as_json[0] == 1
        assert "cannot paint" in text[1]
        assert "\x1b" not in text[1]
        (row,) = json.loads(as_json[1])["tabs"]
        assert (row["status"], row["gateway"]) == ("NACKED", two.node.name)
        assert top[0] == 0
        assert f"{TOPIC}  NACKED" in top[1]
        assert two.node.name in top[1]


async def test_beside_a_local_run_no_token_is_needed_and_elsewhere_one_is_asked_for(
    store_url: str, tmp_path: Path
) -> None:
    async with (
        run_gateway(environment(store_url, DEV="1")) as local,
        run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as closed,
        run_gateway(environment(store_url)) as without,
    ):
        here, there, nowhere = await asyncio.gather(
            *(planwire(environ_of(one, tmp_path, ""), "top", "--once") for one in (local, closed, without))
        )
    assert (here[0], here[2]) == (0, "")
    assert local.node.name in here[1]
    assert there[0] == 2
    assert "the console asks for a token: set PLANWIRE_CONSOLE_TOKEN" in there[2]
    assert nowhere[0] == 1
    assert "there is no console at" in nowhere[2]


async def test_errors_are_one_line_and_say_what_to_do(store_url: str, tmp_path: Path) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN), until_fresh=False) as running:
        good, bad = environ_of(running, tmp_path), environ_of(running, tmp_path, "wrong")
        found = await asyncio.gather(
            planwire(good, "trace", "undefined"),
            planwire(bad, "trace", "acme"),
            planwire(good | {"PLANWIRE_CONSOLE_TOKEN": ""}, "top", "--once"),
            planwire(good, "diff", TOPIC, "1", "2"),
            planwire(good, "diff", TOPIC, "1"),
            planwire(good, "drift"),
            planwire(good, "top", "--once", "--url", "http://127.0.0.1:9"),
            planwire(good, "log", "acme"),
        )
    told = [(status, errors.count("\n"), word in errors + output) for (status, output, errors), word in zip(
        found,
        ("names nobody", "key_invalid", "PLANWIRE_CONSOLE_TOKEN", "not_found", "two versions", "INTAKE", "make run",
         "nothing was ever committed"),
        strict=True,
    )]  # fmt: skip
    assert told == [
        (2, 1, True),
        (1, 1, True),
        (2, 1, True),
        (1, 1, True),
        (2, 1, True),
        (1, 1, True),
        (1, 1, True),
        (0, 0, True),
    ]


async def test_top_streams_json_into_a_pipe(store_url: str, tmp_path: Path) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=f"read:{TOKEN}")) as running:
        process = await asyncio.create_subprocess_exec(
            *command("top", "--json", "--interval", "0.5"),
            cwd=ROOT,
            env=environ_of(running, tmp_path, f"read:{TOKEN}"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            lines = [json.loads(await process.stdout.readline()) for _ in range(2)]
        assert [list(line["gateways"]) for line in lines] == [[running.node.name]] * 2
        process.kill()
        await process.wait()


async def test_top_has_the_screen_and_gives_it_back(store_url: str, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    seen = bytearray()
    loop = asyncio.get_running_loop()
    loop.add_reader(master, lambda: seen.extend(os.read(master, 65536)))
    try:
        async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running:
            process = await asyncio.create_subprocess_exec(
                *command("top", "--interval", "0.5"),
                cwd=ROOT,
                env=environ_of(running, tmp_path),
                stdin=slave,
                stdout=slave,
            )
            await until(lambda: seen.count(b"planwire top  1 gateways") >= 2, timeout_s=60)
            assert seen.startswith(b"\x1b[?1049h")
            assert running.node.name.encode() in seen
            os.write(master, b"q")
            async with asyncio.timeout(30):
                assert await process.wait() == 0
        await until(lambda: seen.endswith(b"\x1b[?25h\x1b[?1049l") or b"\x1b[?1049l" in seen)
        assert termios.tcgetattr(slave)[3] == before[3]
    finally:
        loop.remove_reader(master)
        os.close(master)
        os.close(slave)
