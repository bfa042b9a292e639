"""A gateway on a primary that Sentinels watch: it follows them to whoever is promoted."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from sync.store.redis.connect import connect
from sync.store.store import Change, Store, StoreError
from tests.integration.test_installations import check_apart
from tests.support import servers
from tests.support.gateway import environment, open_client, run_gateway
from tests.support.servers import Server, redis_binary, valkey_binary
from tests.support.wait import until

SERVICE = "plans"
QUORUM = 2
DOWN_AFTER_MS = 400
"""From when a test takes the primary away; before that and after they are patient."""

PATIENT_MS = 30_000
FAILOVER_S = 15.0
"""How long Sentinels may take, on a busy machine."""

TOPIC = "tenant:acme"


@dataclass
class Watched:
    """A primary, its replica, and the Sentinels' ports."""

    primary: Server
    replica: Server
    sentinels: list[Server]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://:s3cret@{hosts}/{SERVICE}"

    def down_after(self, ms: int) -> None:
        """Have every Sentinel take a primary for gone that says nothing for so long."""
        for sentinel in self.sentinels:
            with redis.Redis(port=sentinel.port, protocol=2) as client:
                client.execute_command("SENTINEL", "SET", SERVICE, "down-after-milliseconds", ms)


class Sentinel(Server):
    """A Sentinel; it keeps what it knows in `conf` of its directory."""

    def _spawn(self) -> None:
        arguments = [str(self.directory / "conf"), "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                servers._guarded(self._binary, arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )


def start(
    stack: contextlib.ExitStack, directory: Path, *args: str, kind: type[Server] = Server, binary: str = ""
) -> Server:
    directory.mkdir(exist_ok=True)
    server = kind(binary or redis_binary(), directory, tcp=True, aof=False, args=args)
    stack.callback(server.kill)
    server.start()
    return server


@pytest.fixture(params=[redis_binary, valkey_binary], ids=["redis", "valkey"])
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A primary with a replica and three Sentinels that know of each other, of each engine."""
    binary: str = request.param()
    with tempfile.TemporaryDirectory(prefix="pws-") as folder, contextlib.ExitStack() as stack:
        login = ("--requirepass", "s3cret", "--masterauth", "s3cret", "--repl-diskless-sync-delay", "0")
        primary = start(stack, Path(folder, "primary"), *login, binary=binary)
        replica = start(
            stack, Path(folder, "replica"), *login, "--replicaof", "127.0.0.1", str(primary.port), binary=binary
        )
        deadline = time.monotonic() + FAILOVER_S
        # The Sentinels ask the primary for its replicas at once, and then not for ten seconds.
        while not is_in_step(replica):
            assert time.monotonic() < deadline, "the replica did not get in step"
            time.sleep(0.02)
        sentinels = []
        for index in range(3):
            directory = Path(folder, f"sentinel{index}")
            directory.mkdir()
            (directory / "conf").write_text(
                f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {QUORUM}\n"
                f"sentinel auth-pass {SERVICE} s3cret\n"
                f"sentinel down-after-milliseconds {SERVICE} {PATIENT_MS}\n"
                f"sentinel failover-timeout {SERVICE} 3000\n"
            )
            sentinels.append(start(stack, directory, kind=Sentinel, binary=binary))
        found = Watched(primary, replica, sentinels)
        deadline = time.monotonic() + FAILOVER_S
        while not all(is_ready(sentinel) for sentinel in sentinels):
            assert time.monotonic() < deadline, "the Sentinels did not find each other"
            time.sleep(0.02)
        yield found


def is_in_step(replica: Server) -> bool:
    with redis.Redis(port=replica.port, password="s3cret", protocol=2) as client:
        role: Any = client.execute_command("ROLE")
    return bool(role[3] == b"connected")


def is_ready(sentinel: Server) -> bool:
    """Whether it knows the replica, in step, and both other Sentinels."""
    with redis.Redis(port=sentinel.port, protocol=2, decode_responses=True) as client:
        replicas: Any = client.sentinel_slaves(SERVICE)
        known: Any = client.sentinel_sentinels(SERVICE)
    return [replica["master-link-status"] for replica in replicas] == ["ok"] and len(known) == 2


async def commit(store: Store, state: object) -> int:
    return (await store.commit(Change(TOPIC, orjson.dumps(state)))).version


async def committed(store: Store, state: object) -> int:
    """The version, or 0 while nobody takes it."""
    with contextlib.suppress(StoreError):
        return await commit(store, state)
    return 0


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_a_gateway_follows_the_sentinels_to_the_promoted_replica(watched: Watched, how: str) -> None:
    """Also when the old primary hangs, and its connections stay open. When it is back, it changes nothing."""
    environ = environment(watched.url, PROBE_S="0.4", SWEEP_S="1", READY_TIMEOUT_S="0.3")
    store = connect(watched.url).store
    async with run_gateway(environ) as running, open_client(running, TOPIC) as client:
        await client.until("snapshot")
        before = await commit(store, {"before": "failover"})
        assert (await client.until("snapshot"))["version"] == before
        await asyncio.to_thread(watched.down_after, DOWN_AFTER_MS)
        gone = time.monotonic()
        getattr(watched.primary, how)()
        await until(lambda: not running.node.hub.fresh)
        assert time.monotonic() - gone < 2 * 0.4 + 4, "two probe intervals, and what a busy machine adds"
        if how == "pause":
            store, hung = (
                connect(watched.url).store,
                store,
            )  # a new process: its old one's calls hang until they time out
            await hung.aclose()
        version = await until(lambda: committed(store, {"after": "failover"}), timeout_s=FAILOVER_S)
        assert version > before
        await asyncio.to_thread(watched.down_after, PATIENT_MS)
        async with asyncio.timeout(FAILOVER_S):
            frame = await client.until("snapshot", FAILOVER_S)
            assert frame["version"] == version
            assert "reset" not in frame
        await until(lambda: running.node.hub.fresh, timeout_s=FAILOVER_S)
        (watched.primary.start if how == "kill" else watched.primary.resume)()
        again = await until(lambda: committed(store, {"and": "again"}), timeout_s=FAILOVER_S)
        assert (await client.until("snapshot"))["version"] == again
        assert running.node.metrics.resets == 0
    await store.aclose()


async def test_databases_of_one_primary_know_nothing_of_each_other(watched: Watched) -> None:
    await check_apart((watched.url, "pw"), (f"{watched.url}?db=5", "pw"))


async def test_no_sentinel_and_an_unknown_service_are_clear_errors(watched: Watched) -> None:
    for url in (watched.url.replace(SERVICE, "other"), f"redis+sentinel://127.0.0.1:1/{SERVICE}"):
        connected = connect(url)
        with pytest.raises(StoreError, match="No master found for") as raised:
            await connected.store.ping()
        assert ("Connection refused" if "redis+sentinel://127.0.0.1:1/" in url else "no such service") in str(
            raised.value
        )
        assert len(str(raised.value)) < 300
        with pytest.raises(StoreError, match="sentinel: No master found for"):
            await connected.bus.endpoint("")
        await connected.store.aclose()
