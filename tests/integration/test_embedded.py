"""The embedded store as real processes: shared, taken over, stopped last, never twice, never orphaned."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from sync.store.embedded import child_guard, server as embedded
from sync.store.embedded.data_dir import DataDir, EmbeddedError
from tests.support import wait
from tests.support.processes import Running, alive_with, clean_environ, python, running, servers_of

STORE = ("-m", "sync.store.embedded")

until = partial(wait.until, timeout_s=20)
"""For a process to start, or to end, on a busy machine."""


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short data directory, named in the environment so that the processes of a test can be found by it."""
    path = Path(tempfile.mkdtemp(prefix="pw-"))
    monkeypatch.setenv("PLANWIRE_DATA_DIR", str(path))
    yield path
    for pid in servers_of(path):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)


async def ping(url: str) -> bool:
    client = Redis.from_url(url, socket_timeout=10, socket_connect_timeout=10, retry=None)
    try:
        return bool(await client.ping())
    except (RedisError, OSError):
        return False
    finally:
        await client.aclose()


async def put(url: str, value: str) -> None:
    client = Redis.from_url(url)
    try:
        await client.set("key", value)
    finally:
        await client.aclose()


async def got(url: str) -> str | None:
    client = Redis.from_url(url, decode_responses=True)
    try:
        found = await client.get("key")
        return None if found is None else str(found)
    finally:
        await client.aclose()


def up(program: Running) -> bool:
    assert program.status() is None, program.text
    return "store up: unix://" in program.text


async def test_serves_while_the_block_lasts_and_leaves_no_process(data_dir: Path) -> None:
    async with embedded.serve(data_dir) as url:
        assert url == f"unix://{data_dir}/store.sock"
        assert await ping(url)
        assert len(servers_of(data_dir)) == 1
    assert servers_of(data_dir) == []
    assert not await ping(url)


async def test_listens_on_the_unix_socket_only(data_dir: Path) -> None:
    async with embedded.serve(data_dir) as url:
        client = Redis.from_url(url, decode_responses=True)
        assert await client.config_get("port") == {"port": "0"}
        assert await client.config_get("append*") | {"appendonly": "yes"} == await client.config_get("append*")
        await client.aclose()
        assert DataDir.of(data_dir).socket.stat().st_mode & 0o077 == 0


async def test_what_was_written_is_there_the_next_time(data_dir: Path) -> None:
    async with embedded.serve(data_dir) as url:
        await put(url, "kept")
    async with embedded.serve(data_dir) as url:
        assert await got(url) == "kept"


async def test_two_users_in_one_process_share_one_server(data_dir: Path) -> None:
    async with embedded.serve(data_dir) as first:
        async with embedded.serve(data_dir) as second:
            assert first == second
            assert len(servers_of(data_dir)) == 1
        assert await ping(first)


async def test_ten_at_once_start_one_server(data_dir: Path) -> None:
    async with asyncio.TaskGroup() as group:
        inside = asyncio.Barrier(10)

        async def user() -> None:
            async with embedded.serve(data_dir) as url:
                await inside.wait()
                assert await ping(url)
                assert len(servers_of(data_dir)) == 1
                await inside.wait()

        for _ in range(10):
            group.create_task(user())
    assert servers_of(data_dir) == []


async def test_a_long_path_is_served_through_a_short_socket(data_dir: Path) -> None:
    deep = data_dir / ("long" * 30)
    socket = DataDir.of(deep).socket
    try:
        async with embedded.serve(deep) as url:
            assert await ping(url)
            assert url == f"unix://{socket}"
            assert socket.parent.stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(socket.parent, ignore_errors=True)


async def test_a_path_with_spaces_quotes_and_percent_signs_works(data_dir: Path) -> None:
    odd = data_dir / 'my "data" 100% #1'
    async with embedded.serve(odd) as url:
        await put(url, "odd")
        assert await got(url) == "odd"
    assert (odd / "store" / "appendonlydir").is_dir()


async def test_a_stale_socket_file_is_replaced(data_dir: Path) -> None:
    async with embedded.serve(data_dir) as url:
        (server,) = servers_of(data_dir)
        socket = DataDir.of(data_dir).socket
        os.link(socket, data_dir / "stale")
        assert server
    (data_dir / "stale").rename(socket)
    assert socket.is_socket()
    assert not await ping(url)
    async with embedded.serve(data_dir) as again:
        assert await ping(again)


async def test_a_server_that_dies_is_started_again_with_its_data(data_dir: Path) -> None:
    async with embedded.serve(data_dir, durable=True) as url:
        await put(url, "kept")
        (server,) = servers_of(data_dir)
        os.kill(server, signal.SIGKILL)
        await until(lambda: servers_of(data_dir) not in ([], [server]))
        await until(lambda: ping(url))
        assert await got(url) == "kept"


async def test_a_file_that_cannot_be_loaded_is_a_clear_error(data_dir: Path) -> None:
    async with embedded.serve(data_dir) as url:
        await put(url, "x")
    for file in (data_dir / "store" / "appendonlydir").glob("*.incr.aof"):
        file.write_bytes(b"*not a protocol\r\n" + file.read_bytes())
    with pytest.raises(EmbeddedError, match=r"did not start: \S") as caught:
        async with embedded.serve(data_dir):
            pass
    assert "\n" not in str(caught.value)
    assert servers_of(data_dir) == []


async def test_an_owner_whose_store_does_not_answer_is_a_clear_error(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with embedded.serve(data_dir):
        # Not before: the first one has to start within them.
        monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.3)
        monkeypatch.setattr(embedded, "PING_TIMEOUT_S", 0.1)
        (server,) = servers_of(data_dir)
        os.kill(server, signal.SIGSTOP)
        try:
            with pytest.raises(EmbeddedError, match=f"belongs to process {os.getpid()} and does not answer"):
                async with embedded.serve(data_dir):
                    pass
        finally:
            os.kill(server, signal.SIGCONT)


async def test_waiting_leaves_the_start_to_another(data_dir: Path) -> None:
    async with asyncio.TaskGroup() as group:
        attached = asyncio.Event()

        async def patient() -> None:
            async with embedded.serve(data_dir, max_wait_s=30):
                attached.set()

        group.create_task(patient())
        await asyncio.sleep(0.05)
        assert servers_of(data_dir) == []
        async with embedded.serve(data_dir):
            async with asyncio.timeout(30):
                await attached.wait()


async def test_the_wait_ends(data_dir: Path) -> None:
    began = time.monotonic()
    async with embedded.serve(data_dir, max_wait_s=0.2) as url:
        assert time.monotonic() - began >= 0.2
        assert await ping(url)


async def test_store_process_says_one_line_and_leaves_cleanly(data_dir: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with running(python(*STORE), clean_environ(data_dir)) as store:
            await until(lambda: up(store))
            assert store.lines == [f"store up: unix://{data_dir}/store.sock"]
            store.process.send_signal(number)
            await until(lambda: store.status() is not None)
            assert store.status() == 0
            assert len(store.lines) == 1
            assert alive_with(data_dir) == {}


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("PLANWIRE_DATADIR", "PLANWIRE_DATA_DIR"),
        ("PLANWIRE_WATCH_PID", "PLANWIRE_WATCH_PID: Input should be a valid integer"),
        ("PLANWIRE_DURABLE", "PLANWIRE_DURABLE: Input should be a valid boolean"),
    ],
)
async def test_store_process_refuses_a_wrong_setting_in_one_line(data_dir: Path, setting: str, text: str) -> None:
    with running(python(*STORE), clean_environ(data_dir) | {setting: "x"}) as store:
        await until(lambda: store.status() is not None)
        assert store.status() == 2
        await until(lambda: store.lines)
        (line,) = store.lines
        assert text in line


async def test_kill_9_of_the_owner_leaves_no_server(data_dir: Path) -> None:
    with running(python(*STORE), clean_environ(data_dir)) as store:
        await until(lambda: up(store))
        assert len(servers_of(data_dir)) == 1
        store.process.kill()
        await until(lambda: not alive_with(data_dir))


async def test_an_attached_process_takes_over_when_the_owner_is_killed(data_dir: Path) -> None:
    environ = clean_environ(data_dir)
    with running(python(*STORE), environ) as owner:
        await until(lambda: up(owner))
        async with embedded.serve(data_dir) as url:
            (before,) = servers_of(data_dir)
            await put(url, "survives")
            owner.process.kill()
            await until(lambda: servers_of(data_dir) not in ([], [before]))
            await until(lambda: ping(url))
            assert await got(url) == "survives"  # it is told to stop, not killed: nothing is lost
            assert len(servers_of(data_dir)) == 1
        assert servers_of(data_dir) == []


async def test_never_two_servers_whatever_is_killed(data_dir: Path) -> None:
    """Three processes, the owner killed again and again: at any moment at most one server, and always one soon."""
    seen = {0}

    async def look() -> None:
        while True:
            # Looking takes its time: only those that are still there on a second look were there at once.
            found = servers_of(data_dir)
            seen.add(len(set(found).intersection(servers_of(data_dir)) if len(found) > 1 else found))
            await asyncio.sleep(0.005)

    def owner() -> Running | None:
        pid = (data_dir / "store.lock").read_text().strip() if servers_of(data_dir) else ""
        return next((program for program in programs if pid == str(program.process.pid) and up(program)), None)

    looking = asyncio.create_task(look())
    programs = [Running(python(*STORE), clean_environ(data_dir)) for _ in range(3)]
    url = DataDir.of(data_dir).url
    try:
        for _ in range(4):
            victim = await until(owner)
            await until(lambda: ping(url))
            assert victim is not None
            victim.process.kill()
            victim.close()
            programs.remove(victim)
            programs.append(Running(python(*STORE), clean_environ(data_dir)))
        await until(lambda: ping(url))
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        for program in programs:
            program.close()
    assert max(seen) == 1
    await until(lambda: not alive_with(data_dir))


async def test_nobody_takes_over_while_the_killed_owners_server_still_writes(data_dir: Path) -> None:
    with running(python(*STORE), clean_environ(data_dir)) as owner:
        await until(lambda: up(owner))
        async with embedded.serve(data_dir) as url:
            (before,) = servers_of(data_dir)
            os.kill(before, signal.SIGSTOP)
            owner.process.kill()
            await asyncio.sleep(5 * embedded.TAKEOVER_POLL_S)
            assert servers_of(data_dir) == [before]
            os.kill(before, signal.SIGCONT)
            await until(lambda: servers_of(data_dir) not in ([], [before]))
            await until(lambda: ping(url))


async def test_the_owner_leaves_after_the_attached(data_dir: Path) -> None:
    with running(python(*STORE), clean_environ(data_dir)) as owner:
        await until(lambda: up(owner))
        async with embedded.serve(data_dir) as url:
            owner.process.terminate()
            await asyncio.sleep(0.3)
            assert owner.status() is None
            await put(url, "last words")
        await until(lambda: owner.status() is not None)
        assert owner.status() == 0
        assert alive_with(data_dir) == {}
    async with embedded.serve(data_dir) as url:
        assert await got(url) == "last words"


async def test_an_owner_does_not_wait_forever_and_is_succeeded(data_dir: Path) -> None:
    with running(python(*STORE), clean_environ(data_dir)) as owner:
        await until(lambda: up(owner))
        async with embedded.serve(data_dir) as url:
            owner.process.terminate()
            await until(lambda: owner.status() is not None, timeout_s=embedded.LINGER_S + 20)
            assert owner.status() == 0
            await until(lambda: ping(url))
            assert (data_dir / "store.lock").read_text() == f"{os.getpid()}\n"


async def test_a_data_directory_removed_meanwhile_does_not_keep_it_from_stopping(data_dir: Path) -> None:
    async with embedded.serve(data_dir):
        (server,) = servers_of(data_dir)
        shutil.rmtree(data_dir)
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


async def test_ctrl_c_does_not_reach_the_server(data_dir: Path) -> None:
    async with embedded.serve(data_dir):
        (server,) = servers_of(data_dir)
        assert os.getsid(server) == server != os.getsid(0)


async def test_a_frozen_server_is_killed_in_the_end(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.2)
    async with embedded.serve(data_dir):
        (server,) = servers_of(data_dir)
        os.kill(server, signal.SIGSTOP)
    assert servers_of(data_dir) == []


async def test_without_the_kernels_help_a_watching_guard_ends_the_server(data_dir: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from sync.store.embedded import child_guard\n"
        "from sync.store.embedded.__main__ import main\n"
        "child_guard.KERNEL_HELPS = False\n"
        "asyncio.run(main())\n"
    )
    for how in (signal.SIGTERM, signal.SIGKILL):
        with running(python("-c", script), clean_environ(data_dir)) as store:
            await until(lambda: up(store))
            assert len(servers_of(data_dir)) == 1
            assert len(alive_with(data_dir)) == 3, "owner, guard and server"
            store.process.send_signal(how)
            await until(lambda: not alive_with(data_dir))


async def test_guard_passes_the_programs_status_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for helps in (True, False):
        monkeypatch.setattr(child_guard, "KERNEL_HELPS", helps)
        process = await asyncio.create_subprocess_exec(
            *child_guard.command("/bin/sh", "-c", "exit 7", death_signal=signal.SIGTERM)
        )
        assert await process.wait() == 7


async def test_parent_watch_ends_this_process_with_the_other(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, time\n"
        "from sync.process import parent_watch\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "parent_watch.watch(int(os.environ['PLANWIRE_WATCH_PID']))\n"
        "print('watching', flush=True)\n"
        "time.sleep(60)\n"
    )
    for prelude in ("", "import os; del os.pidfd_open\n"):
        if prelude and not hasattr(os, "pidfd_open"):
            continue
        other = await asyncio.create_subprocess_exec("sleep", "60")
        environ = clean_environ(tmp_path, PLANWIRE_WATCH_PID=str(other.pid))
        with running(python("-c", prelude + script), environ) as watcher:
            await until(lambda: "watching" in watcher.text)
            assert watcher.status() is None
            other.kill()
            await other.wait()
            await until(lambda: watcher.status() is not None)
            assert watcher.status() == 5


async def test_parent_watch_of_a_process_that_is_gone_already_ends_this_one(tmp_path: Path) -> None:
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    script = f"import time; from sync.process import parent_watch; parent_watch.watch({gone.pid}); time.sleep(60)"
    with running(python("-c", script), clean_environ(tmp_path)) as watcher:
        await until(lambda: watcher.status() is not None)
        assert watcher.status() == -signal.SIGTERM


async def test_parent_watch_kills_what_does_not_react(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time; from sync.process import parent_watch\n"
        "parent_watch.GRACE_S = 0.1; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "parent_watch.watch(2**22 - 1)\n"
        "time.sleep(60)\n"
    )
    with running(python("-c", script), clean_environ(tmp_path)) as watcher:
        await until(lambda: watcher.status() is not None)
        assert watcher.status() == -signal.SIGKILL
