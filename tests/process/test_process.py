"""How processes end: SIGHUP drains like SIGTERM, a failed task is an error, an unread log holds nobody up."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sync.store.models import Change
from sync.store.redis.connect import connect
from tests.support.attacker import request
from tests.support.gateway import MAX_WAIT_S, environment
from tests.support.processes import clean_environ
from tests.support.servers import free_port
from tests.support.wait import until
from tests.support.wire import CLOSE, TEXT, Answer, Wire, dial, encode, greet

pytestmark = pytest.mark.timeout(120)

TOPIC = "tenant:acme"
PIPE_BYTES = 4096

DIES = """
import os
if os.environ.get("DIES_WHEN"):
    import asyncio
    from gateway.ws.registry import ConnectionRegistry

    async def run(self):
        while not os.path.exists(os.environ["DIES_WHEN"]):
            await asyncio.sleep(0.05)
        if not os.path.exists(os.environ["DIES_WHEN"] + ".once"):
            open(os.environ["DIES_WHEN"] + ".once", "w").close()
            raise RuntimeError("unforeseen")
        await asyncio.sleep(3600)

    ConnectionRegistry.run = run
"""
"""As sitecustomize: one task of a web process fails, once, when a file appears."""


@dataclass
class Web:
    """A web process; `log` is where it writes, unless to a pipe."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    async def get(self, path: str) -> Answer:
        """Return the answer to a request on a connection of its own."""
        async with dial(self.port) as wire:
            await wire.send(request(f"GET {path}", "Connection: close"))
            return await wire.answer()

    async def is_ready(self) -> bool:
        """Return whether it is ready."""
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            return (await self.get("/readyz")).status == 200
        return False

    async def ended(self) -> int:
        """Return its exit status, once it has ended."""
        await until(lambda: self.process.poll() is not None, MAX_WAIT_S)
        return self.process.returncode

    def events(self, name: str) -> list[dict[str, object]]:
        """Return the log's lines of an event."""
        whole = self.log.read_text().rpartition("\n")[0].splitlines()
        lines = (json.loads(line) for line in whole if line.startswith("{"))
        return [line for line in lines if line["event"] == name]


@contextlib.contextmanager
def started(
    command: list[str], environ: dict[str, str], log: Path, stderr: int | None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own, whatever of it is left is killed."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output if stderr is None else stderr,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.asynccontextmanager
async def run_web(
    folder: Path, store_url: str, *prefix: str, workers: int = 1, stderr: int | None = None, **settings: str
) -> AsyncIterator[Web]:
    """Run a web process, or a supervisor with several."""
    port = free_port()
    (folder / "sitecustomize.py").write_text(DIES)
    environ = clean_environ(folder, **environment(store_url, PORT=str(port), **{"DRAIN_S": "1", **settings}))
    environ |= {"WEB_CONCURRENCY": str(workers), "DIES_WHEN": str(folder / "now")}
    environ["PYTHONPATH"] = f"{folder}{os.pathsep}{environ['PYTHONPATH']}"
    log = folder / "web.log"
    with started([*prefix, sys.executable, "-m", "gateway.server"], environ, log, stderr) as process:
        web = Web(process, port, log)
        await until(web.is_ready, MAX_WAIT_S)
        yield web


async def farewell(wire: Wire) -> tuple[str, int]:
    """Answer the close; return the last frame's type, and the code."""
    last = ""
    while (frame := await wire.frame(MAX_WAIT_S)).opcode != CLOSE:
        if frame.opcode == TEXT:
            last = json.loads(frame.payload)["type"]
    await wire.send(encode(CLOSE, frame.payload))
    return last, int.from_bytes(frame.payload[:2], "big")


# SIGHUP.


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
async def test_a_web_process_that_is_hung_up_on_drains(store_url: str, tmp_path: Path, number: signal.Signals) -> None:
    async with run_web(tmp_path, store_url) as web, greet(web.port, TOPIC) as tab:
        web.process.send_signal(number)
        assert await farewell(tab) == ("bye", 4000)
        assert await web.ended() == 0


async def test_under_nohup_a_web_process_goes_on(store_url: str, tmp_path: Path) -> None:
    async with run_web(tmp_path, store_url, "nohup") as web, greet(web.port, TOPIC) as tab:
        web.process.send_signal(signal.SIGHUP)
        store = connect(store_url).store
        committed = await store.commit(Change(TOPIC, b'{"n":1}'))
        await store.aclose()
        while (await tab.json()).get("version") != committed.version:
            pass
        web.process.send_signal(signal.SIGTERM)
        assert await farewell(tab) == ("bye", 4000)
        assert await web.ended() == 0


@pytest.mark.parametrize("whole_group", [False, True], ids=["the supervisor", "all of them"])
async def test_several_web_processes_are_replaced_one_by_one_and_drained(
    store_url: str, tmp_path: Path, whole_group: bool
) -> None:
    """A terminal that is closed hangs up on all of them, a service manager on the supervisor."""
    async with run_web(tmp_path, store_url, workers=2) as web, contextlib.AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(greet(web.port, TOPIC)) for _ in range(8)]
        await until(lambda: len(served(web)) == 2, MAX_WAIT_S)
        before = served(web)
        (os.killpg if whole_group else os.kill)(web.process.pid, signal.SIGHUP)
        assert set(await asyncio.gather(*map(farewell, tabs))) == {("bye", 4000)}
        await until(lambda: len(served(web)) == 4, MAX_WAIT_S)
        assert served(web) > before
        await until(web.is_ready, MAX_WAIT_S)
        assert web.process.poll() is None
        web.process.send_signal(signal.SIGTERM)
        assert await web.ended() == 0


async def test_a_sigterm_does_not_wait_until_all_are_replaced(store_url: str, tmp_path: Path) -> None:
    async with run_web(tmp_path, store_url, workers=2, DRAIN_S="3") as web, contextlib.AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(greet(web.port, TOPIC)) for _ in range(8)]
        await until(lambda: len(served(web)) == 2, MAX_WAIT_S)
        web.process.send_signal(signal.SIGHUP)
        await until(lambda: len(served(web)) == 3, MAX_WAIT_S)
        web.process.send_signal(signal.SIGTERM)
        assert set(await asyncio.gather(*map(farewell, tabs))) == {("bye", 4000)}
        assert await web.ended() == 0
        assert len(served(web)) == 3, "it went on replacing"


def served(web: Web) -> set[str]:
    """Return the processes that have served, as their log names them."""
    text = web.log.read_text()
    return {line.split("[")[1].split("]")[0] for line in text.splitlines() if "Started server process [" in line}


@pytest.mark.parametrize("module", ["sync.worker", "sync.store.embedded"])
async def test_the_other_processes_end_in_order_too(store_url: str, tmp_path: Path, module: str) -> None:
    environ = clean_environ(tmp_path, PLANWIRE_REDIS_URL="" if module == "sync.store.embedded" else store_url)
    environ = {name: value for name, value in environ.items() if value} | {"PYTHONUNBUFFERED": "1"}
    log = tmp_path / "log"
    with started([sys.executable, "-m", module], environ, log, None) as process:
        await until(lambda: "worker_started" in log.read_text() or "store up" in log.read_text(), MAX_WAIT_S)
        process.send_signal(signal.SIGHUP)
        await until(lambda: process.poll() is not None, MAX_WAIT_S)
        assert process.returncode == 0
        assert "worker_stopped" in log.read_text() or module != "sync.worker"


# A task that fails.


async def test_a_web_process_whose_task_has_failed_ends_with_an_error(store_url: str, tmp_path: Path) -> None:
    async with run_web(tmp_path, store_url) as web, greet(web.port, TOPIC) as tab:
        (tmp_path / "now").touch()
        assert await farewell(tab) == ("bye", 4000)
        assert await web.ended() == 1
        (died,) = web.events("node_died")
        assert died["level"] == "critical"


async def test_one_of_several_is_replaced(store_url: str, tmp_path: Path) -> None:
    async with run_web(tmp_path, store_url, workers=2) as web:
        await until(lambda: len(served(web)) == 2, MAX_WAIT_S)
        (tmp_path / "now").touch()
        await until(lambda: len(served(web)) == 3, MAX_WAIT_S)
        await until(web.is_ready, MAX_WAIT_S)
        assert web.process.poll() is None


# A log that nobody reads.


async def test_a_log_that_nobody_reads_holds_nobody_up(store_url: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        async with run_web(tmp_path, store_url, stderr=writer) as web:
            os.close(writer)
            writer = -1
            async with greet(web.port, TOPIC) as tab:
                for _ in range(100):
                    async with greet(web.port, TOPIC):
                        pass
                assert (await web.get("/healthz")).status == 200
                store = connect(store_url).store
                committed = await store.commit(Change(TOPIC, b'{"n":1}'))
                await store.aclose()
                while (await tab.json()).get("version") != committed.version:
                    pass
            # Who comes back reads everything: that was little enough to be kept.
            text = await asyncio.to_thread(read_until, reader, b'"close"', 101)
            assert text.count(b'"connect"') == 101
            assert all(json.loads(line) for line in text.splitlines()[:-1])
            web.process.send_signal(signal.SIGTERM)
            assert await web.ended() == 0
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def read_until(descriptor: int, wanted: bytes, times: int) -> bytes:
    """Return what comes until something has come so often."""
    data = b""
    while data.count(wanted) < times:
        piece = os.read(descriptor, 65_536)
        assert piece, data
        data += piece
    return data


async def test_a_process_ends_though_nobody_reads_its_log(store_url: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        async with run_web(tmp_path, store_url, stderr=writer) as web:
            for _ in range(30):
                async with greet(web.port, TOPIC):
                    pass
            web.process.send_signal(signal.SIGTERM)
            assert await web.ended() == 0
    finally:
        os.close(reader)
        os.close(writer)
