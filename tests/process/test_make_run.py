"""`make run` as a user has it: what it prints, what it leaves behind, and what it says when it cannot run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Running, alive_with, clean_environ, python, running, servers_of
from tests.support.servers import Server, free_port
from tests.support.service_links import LINKS
from tests.support.wait import until

pytestmark = pytest.mark.slow

STAND_IN = """\
import http.server, os, sys
print("web says", *sys.argv[1:], flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = "\\n".join(f"{name}={value}" for name, value in os.environ.items()).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('stubborn', flush=True); time.sleep(600)"
)
STOP_S = 10.0


@pytest.fixture
def data_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pw-"))
    yield path / "data"
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def procfile(tmp_path: Path) -> Path:
    """The store and a stand-in for web that answers every request with its environment."""
    (tmp_path / "web.py").write_text(STAND_IN)
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    path = tmp_path / "Procfile"
    path.write_text(f"store: python -m sync.store.embedded\nweb: python {tmp_path}/web.py hello\n")
    return path


def add(procfile: Path, *lines: str, instead: bool = False) -> None:
    """Add lines to the Procfile, or have them alone in it; scripts are named as if they stood beside it."""
    text = "".join(f"{line}\n" for line in lines).replace("python ", f"python {procfile.parent}/")
    procfile.write_text(text if instead else procfile.read_text() + text)


def command(procfile: Path | None = None) -> list[str]:
    return python("-m", "gateway.dev", *(("--procfile", str(procfile)) if procfile else ()))


def url_of(program: Running) -> str:
    found = re.findall(r"(?m)^planwire ready: (http://127\.0\.0\.1:\d+)$", program.text)
    assert len(found) <= 1, program.text
    assert program.status() is None, program.text
    return str(found[0]) if found else ""


async def ready(program: Running) -> str:
    """The URL of the ready line, once the lines below it are there too."""
    await until(lambda: url_of(program) and "\ndemo: " in program.text, timeout_s=60)
    return url_of(program)


def get(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as response:
        return str(response.read().decode())


async def becomes_ready(url: str) -> None:
    """It is; but a machine that stands still for a moment makes it unready again for another."""

    def is_ready() -> bool:
        with contextlib.suppress(urllib.error.HTTPError):
            return bool(get(f"{url}/readyz"))
        return False

    await until(is_ready)


def seen_environ(url: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in get(url).splitlines() if "=" in line)


async def test_real_system_becomes_ready_says_so_once_and_leaves_nothing(data_dir: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with running(command(), clean_environ(data_dir, PORT="0")) as program:
            url = await ready(program)
            assert program.text.count("planwire ready: ") == 1
            lines = program.lines
            at = lines.index(f"planwire ready: {url}")
            assert lines[at + 1] == f"demo: {url}/demo"
            await becomes_ready(url)
            assert "<html" in get(f"{url}/demo").lower()
            names = " ".join(alive_with(data_dir).values())
            for module in ("sync.store.embedded", "gateway.server", "sync.worker", "sync.simulator", "valkey-server"):
                assert module in names
            program.process.send_signal(number)
            await until(lambda: program.has_ended, timeout_s=STOP_S)
            assert program.status() == 0, program.text
            assert alive_with(data_dir) == {}
            assert program.text.count("planwire ready: ") == 1
            assert "Traceback" not in program.text


async def test_kill_9_of_the_real_system_leaves_nothing_and_it_starts_again(data_dir: Path) -> None:
    environ = clean_environ(data_dir, PORT=str(free_port()))
    with running(command(), environ) as program:
        await ready(program)
        program.process.kill()
        # At once: the second run waits for what the first one left to be gone.
        with running(command(), environ) as second:
            await ready(second)
            second.process.terminate()
            await until(lambda: second.status() is not None, timeout_s=STOP_S)
            assert second.status() == 0, second.text
        assert alive_with(data_dir) == {}


async def test_kill_9_leaves_no_process_even_one_that_ignores_sigterm_and_does_not_watch(
    data_dir: Path, procfile: Path
) -> None:
    add(procfile, "stubborn: python stubborn.py")
    with running(command(procfile), clean_environ(data_dir, PORT="0")) as program:
        await ready(program)
        await until(lambda: "stubborn" in program.text, timeout_s=20)
        program.process.kill()
        await until(lambda: not servers_of(data_dir), timeout_s=STOP_S)
        await until(lambda: not alive_with(data_dir), timeout_s=STOP_S)


async def test_a_process_that_ignores_sigterm_is_killed_within_ten_seconds(data_dir: Path, procfile: Path) -> None:
    add(procfile, "stubborn: python stubborn.py")
    with running(command(procfile), clean_environ(data_dir, PORT="0")) as program:
        await ready(program)
        await until(lambda: "stubborn |" in program.text, timeout_s=20)
        program.process.terminate()
        await until(lambda: program.status() is not None, timeout_s=STOP_S)
        assert alive_with(data_dir) == {}


async def test_nobody_reacts_to_sigterm_and_all_are_killed_within_ten_seconds(data_dir: Path, procfile: Path) -> None:
    add(procfile, "one: python stubborn.py", "two: python stubborn.py", instead=True)
    with running(command(procfile), clean_environ(data_dir, PORT="0")) as program:
        await until(lambda: program.text.count("stubborn") == 2, timeout_s=20)
        program.process.terminate()
        await until(lambda: program.status() is not None, timeout_s=STOP_S)
        assert alive_with(data_dir) == {}


@pytest.mark.parametrize("delay_s", [0.15, 0.25, 0.35, 0.5])
async def test_a_signal_while_starting_leaves_nothing(data_dir: Path, procfile: Path, delay_s: float) -> None:
    with running(command(procfile), clean_environ(data_dir, PORT="0")) as program:
        await asyncio.sleep(delay_s)
        program.process.send_signal(signal.SIGTERM)
        await until(lambda: program.status() is not None, timeout_s=STOP_S)
        assert "Traceback" not in program.text
        await until(lambda: not alive_with(data_dir), timeout_s=STOP_S)


async def test_ctrl_c_in_the_terminal_reaches_the_whole_group_and_stops_cleanly(data_dir: Path, procfile: Path) -> None:
    with running(command(procfile), clean_environ(data_dir, PORT="0")) as program:
        await ready(program)
        os.killpg(program.process.pid, signal.SIGINT)
        await until(lambda: program.has_ended, timeout_s=STOP_S)
        assert program.status() == 0, program.text
        assert program.lines[-1] == "planwire stopped"
        assert "Traceback" not in program.text
        assert alive_with(data_dir) == {}


async def test_a_process_that_ends_by_itself_stops_the_rest_and_is_named(data_dir: Path, procfile: Path) -> None:
    add(procfile, "broken: sleep 1; exit 3")
    with running(command(procfile), clean_environ(data_dir, PORT="0")) as program:
        await until(lambda: program.status() is not None, timeout_s=STOP_S)
        assert program.status() == 1
        await until(lambda: "planwire stopped: broken ended with status 3" in program.lines)
        assert alive_with(data_dir) == {}


async def test_a_closed_output_stops_the_run(data_dir: Path, procfile: Path) -> None:
    add(procfile, "chatty: while sleep 0.05; do echo more; done")
    piped = ["sh", "-c", '"$@" | head -n 1', "sh", *command(procfile)]
    with running(piped, clean_environ(data_dir, PORT="0")) as program:
        await until(lambda: program.has_ended, timeout_s=30)
        assert program.lines, "it has not run"
        await until(lambda: not alive_with(data_dir), timeout_s=STOP_S)


async def test_output_of_a_process_has_its_name_in_front(data_dir: Path, procfile: Path) -> None:
    with running(command(procfile), clean_environ(data_dir, PORT="0")) as program:
        await ready(program)
        await until(lambda: re.search(r"(?m)^\d\d:\d\d:\d\d web +\| web says hello$", program.text))
        assert "system" not in program.text


async def test_a_second_run_on_the_same_directory_says_where_the_first_one_is(data_dir: Path, procfile: Path) -> None:
    environ = clean_environ(data_dir, PORT="0")
    with running(command(procfile), environ) as first:
        url = await ready(first)
        second = await asyncio.to_thread(
            subprocess.run, command(procfile), env=environ, capture_output=True, text=True, cwd=ROOT, timeout=60
        )
        assert second.returncode == 1
        assert second.stdout == ""
        (line,) = second.stderr.splitlines()
        assert f"already running on {data_dir}: {url} (pid {first.process.pid})" in line
        assert seen_environ(url)["PLANWIRE_WATCH_PID"] == str(first.process.pid)


async def test_a_taken_port_is_one_line_and_starts_nothing(data_dir: Path, procfile: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = await asyncio.to_thread(
            subprocess.run,
            command(procfile),
            env=clean_environ(data_dir, PORT=str(port)),
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f"port {port} is taken by another program" in line
    assert alive_with(data_dir) == {}


@pytest.mark.parametrize(
    ("name", "value", "text", "status"),
    [
        ("PORT", "web", "PORT is not a TCP port: 'web'", 2),
        ("PORT", "65536", "PORT is not a TCP port", 2),
        ("PLANWIRE_PUBLISH_KEYZ", "x", "did you mean PLANWIRE_PUBLISH_KEY", 2),
        ("PLANWIRE_DATA_DIR", "/dev/null/x", "PLANWIRE_DATA_DIR: /dev/null/x cannot be used", 2),
    ],
)
async def test_a_wrong_setting_is_one_line(
    data_dir: Path, procfile: Path, name: str, value: str, text: str, status: int
) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        command(procfile),
        env=clean_environ(data_dir) | {name: value},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert text in line


async def test_default_port_is_8000_and_port_is_honoured(data_dir: Path, procfile: Path) -> None:
    port = free_port()
    with running(command(procfile), clean_environ(data_dir, PORT=str(port))) as program:
        assert await ready(program) == f"http://127.0.0.1:{port}"
    help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: ASYNC221
    assert "PORT (8000)" in help_text


async def test_processes_get_made_up_secrets_that_stay_the_same(data_dir: Path, procfile: Path) -> None:
    secret_names = {
        "PLANWIRE_JWT_SECRET",
        "PLANWIRE_PUBLISH_KEY",
        "PLANWIRE_PUBLISH_KEYS",
        "PLANWIRE_PADDLE_SECRETS",
        "PLANWIRE_PADDLE_API_KEYS",
    }
    seen = []
    for _ in range(2):
        with running(command(procfile), clean_environ(data_dir, PORT="0")) as program:
            environ = seen_environ(await ready(program))
            assert stat.S_IMODE((data_dir / "dev.env").stat().st_mode) == 0o600
            assert environ["PLANWIRE_DEV"] == "1"
            assert environ["PLANWIRE_DATA_DIR"] == str(data_dir)
            assert environ["PLANWIRE_PADDLE_API_URL"] == environ["PLANWIRE_SIMULATOR_URL"]
            seen.append({name: environ[name] for name in secret_names})
            program.process.terminate()
            await until(lambda: program.status() is not None, timeout_s=STOP_S)
    assert seen[0] == seen[1]
    assert all(seen[0].values())


async def test_what_kubernetes_adds_for_services_reaches_no_process(data_dir: Path, procfile: Path) -> None:
    with running(command(procfile), clean_environ(data_dir, PORT="0", PLANWIRE_LOG_LEVEL="info\n", **LINKS)) as program:
        environ = seen_environ(await ready(program))
        assert not LINKS.keys() & environ.keys()
        assert environ["PLANWIRE_LOG_LEVEL"] == "info"


async def test_no_console_token_is_made_up_and_one_that_is_given_reaches_the_gateway(
    data_dir: Path, procfile: Path
) -> None:
    data_dir.mkdir(parents=True)  # noqa: ASYNC240
    (data_dir / "dev.env").write_text("PLANWIRE_CONSOLE_TOKEN=made-up-by-an-older-version-of-this\n")
    with running(command(procfile), clean_environ(data_dir, PORT="0")) as program:
        assert "PLANWIRE_CONSOLE_TOKEN" not in seen_environ(await ready(program))
    with running(command(procfile), clean_environ(data_dir, PORT="0", PLANWIRE_CONSOLE_TOKEN="mine")) as program:
        assert seen_environ(await ready(program))["PLANWIRE_CONSOLE_TOKEN"] == "mine"


async def test_secrets_of_the_environment_win_and_are_not_written_down(data_dir: Path, procfile: Path) -> None:
    given = {"PLANWIRE_JWT_SECRET": "my-own-secret-of-at-least-32-bytes", "PLANWIRE_CATALOG": "/my/catalog.toml"}
    with running(command(procfile), clean_environ(data_dir, PORT="0", **given)) as program:
        environ = seen_environ(await ready(program))
        assert given.items() <= environ.items()
        assert "my-own-secret" not in (data_dir / "dev.env").read_text()


async def test_the_command_line_finds_the_running_system_in_dev_env(data_dir: Path, procfile: Path) -> None:
    with running(command(procfile), clean_environ(data_dir, PORT="0")) as program:
        url = await ready(program)
        environ = seen_environ(url)
        lines = (data_dir / "dev.env").read_text().splitlines()
        assert f"PORT={url.rpartition(':')[2]}" in lines
        assert f"PLANWIRE_SIMULATOR_URL={environ['PLANWIRE_SIMULATOR_URL']}" in lines
        assert json.loads((data_dir / "run.lock").read_text()) == {"url": url, "pid": program.process.pid}


async def test_with_a_store_url_no_store_is_started(data_dir: Path, procfile: Path, valkey: Server) -> None:
    environ = clean_environ(data_dir, PORT="0", PLANWIRE_REDIS_URL=valkey.url)
    with running(command(procfile), environ) as program:
        assert seen_environ(await ready(program))["PLANWIRE_REDIS_URL"] == valkey.url
        assert servers_of(data_dir) == []
        assert "store" not in program.text


async def test_make_run_passes_signals_on_and_leaves_nothing_even_when_make_is_killed(data_dir: Path) -> None:
    if shutil.which("make") is None or Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("needs make, and to run from the checkout's own .venv")
    for number in (signal.SIGTERM, signal.SIGKILL):
        with running(["make", "--no-print-directory", "run"], clean_environ(data_dir, PORT="0")) as program:
            await ready(program)
            program.process.send_signal(number)
            await until(lambda: program.status() is not None, timeout_s=STOP_S)
            await until(lambda: not alive_with(data_dir), timeout_s=STOP_S)
