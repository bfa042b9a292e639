"""No unit is sold twice: processes that consume, and their store, are killed while they do."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import orjson
import pytest

from planwire_client.core.commit import BILLING
from sync.billing.catalog.catalog import parse
from sync.store.models import Change
from sync.store.redis.connect import connect
from sync.usage.calls import Answer, Call, UsageCalls
from sync.usage.meters import meters_of
from tests.support.servers import Server, start_valkey
from tests.support.usage_spender import CATALOG, TENANT
from tests.support.wait import until

pytestmark = pytest.mark.slow

LIMIT = 3000
SPENDERS = 4
ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[Server]:
    with start_valkey(aof=True, args=["--appendfsync", "always"]) as server:
        yield server


class Spender:
    """A process that consumes, and the file of what was counted for it."""

    def __init__(self, server: Server, folder: Path, number: int) -> None:
        self.output = folder / f"{number}.txt"
        command = [sys.executable, "-m", "tests.support.usage_spender", server.url, f"p{number}"]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, cwd=ROOT)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def counted(self) -> int:
        return self.output.read_bytes().count(b"\n")


async def test_processes_and_the_store_are_killed_and_nothing_is_oversold(server: Server, tmp_path: Path) -> None:
    store, meters = connect(server.url).store, meters_of(parse(CATALOG))
    state = {"plan": {"key": "pro"}, "status": "active", "limits": {"api_calls": LIMIT}}
    await store.commit(Change(TENANT, orjson.dumps(state), owner=BILLING))
    with ExitStack() as stack:
        spenders: list[Spender] = []

        def add() -> None:
            spenders.append(Spender(server, tmp_path, len(spenders)))
            stack.callback(spenders[-1].kill)

        def counted() -> int:
            return sum(one.counted for one in spenders)

        def has_counted(units: int) -> bool:
            return counted() > units

        for _ in range(SPENDERS):
            add()
        for number in range(SPENDERS):
            await until(partial(has_counted, (number + 1) * LIMIT // 8), 60)
            spenders[number].kill()
            server.restart()
            add()
        await until(lambda: all(one.process.poll() is not None for one in spenders), 90)
        (found,) = await UsageCalls(store, lambda: meters).run([Call(TENANT, "consume", "api_calls", 1)])
        assert isinstance(found, Answer)
        assert (found.is_allowed, found.used) == (False, LIMIT), "never more than the limit, and all of it"
        # What a killed process had sent and not read the answer of is used as well: one call each.
        assert LIMIT - SPENDERS <= counted() <= LIMIT
    await store.aclose()
