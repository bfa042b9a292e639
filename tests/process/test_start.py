"""How the processes start: with what Kubernetes adds to the environment, with blanks around values, on IPv4 and IPv6;
and what they say where a setting is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from gateway.server.listening import listen
from gateway.settings import SettingsError
from planwire_client.http import NO_ANSWER
from tests.support.gateway import PUBLISH_KEY, environment, token
from tests.support.processes import ROOT, clean_environ, python, running
from tests.support.servers import free_port, missing
from tests.support.service_links import LINKS
from tests.support.wait import until
from tests.support.wire import hello

START_TIMEOUT_S = 60.0
EXAMPLE_CATALOG = "sync/billing/catalog/example.toml"
NO_SDK = "import sys\nsys.modules['paddle_billing'] = None\n"
"""As `sitecustomize.py`: Paddle's SDK is not installed."""

web = python("-m", "gateway.server")


def ended(command: Sequence[str], environ: dict[str, str], timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Return what became of a program that ends by itself."""
    return subprocess.run(
        command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )


@dataclass
class Started:
    """A web process that answers. `lines`: its log so far."""

    port: int
    log: Path

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextlib.asynccontextmanager
async def started(directory: Path, environ: dict[str, str], host: str = "127.0.0.1") -> AsyncIterator[Started]:
    """Run a web process until it is ready; SIGTERM ends it."""
    port = int(environ["PORT"])
    log = directory / "web.log"
    with log.open("wb") as output:
        process = subprocess.Popen(web, env=environ, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: ASYNC220
    try:

        async def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(*NO_ANSWER):
                async with httpx2.AsyncClient(trust_env=False) as client:
                    return bool((await client.get(f"http://{host}:{port}/readyz")).status_code == 200)
            return False

        await until(is_ready, START_TIMEOUT_S)
        yield Started(port, log)
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


# Service links.


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_web_serves_with_the_variables_of_services_in_its_environment(
    tmp_path: Path, store_url: str, workers: str
) -> None:
    environ = environment(store_url, PORT=str(free_port()))
    async with started(tmp_path, clean_environ(tmp_path, **environ, **LINKS, WEB_CONCURRENCY=workers)):
        pass


async def test_worker_and_store_and_simulator_run_with_the_variables_of_services(tmp_path: Path) -> None:
    environ = clean_environ(
        tmp_path,
        PLANWIRE_DEV="1",
        PLANWIRE_SIMULATOR_URL=f"http://127.0.0.1:{free_port()}",
        PLANWIRE_PADDLE_SECRETS="live:pdl_ntfset_x",
        **LINKS,
    )
    with (
        running(python("-m", "sync.store.embedded"), environ) as store,
        running(python("-m", "sync.worker"), environ) as worker,
        running(python("-m", "sync.simulator"), environ) as simulator,
    ):
        for program, says in (
            (store, "store up: "),
            (worker, "worker_started"),
            (simulator, "planwire simulator: http://"),
        ):

            def has_said() -> bool:
                assert program.status() is None, program.text  # noqa: B023
                return says in program.text  # noqa: B023

            await until(has_said, START_TIMEOUT_S)


def test_the_command_line_works_with_the_variables_of_services(tmp_path: Path) -> None:
    environ = clean_environ(tmp_path, PLANWIRE_JWT_SECRET="s" * 40, **LINKS)
    planwire = python("-m", "gateway.cli")
    done = ended([*planwire, "token", "--topic", "tenant:acme"], environ)
    assert (done.returncode, done.stderr) == (0, "")
    done = ended([*planwire, "backfill", "paddle", "--dry-run"], environ)
    assert (done.returncode, done.stderr) == (
        2,
        "planwire: paddle cannot be asked in live: set PLANWIRE_PADDLE_API_KEYS=live:KEY\n",
    )
    done = ended([*planwire, "outbox", "list"], environ)
    assert "PLANWIRE_OUTBOX_URL is not set" in done.stderr
    for command in (web, python("-m", "sync.worker"), [*planwire, "token", "--topic", "tenant:acme"]):
        done = ended(command, environ | {"PLANWIRE_PORT": "8000"})
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "unknown setting PLANWIRE_PORT" in done.stderr


# The worker's liveness.


async def test_the_workers_probe_holds_while_it_turns_and_fails_when_it_stands_still(
    tmp_path: Path, store_url: str
) -> None:
    """The command is the manifest's, with its minute cut down: the file is touched every few seconds."""
    manifest = (ROOT / "docs" / "deploy" / "kubernetes" / "planwire.yaml").read_text()
    (probe, _) = re.findall(r"exec: \{command: \[sh, -c, '(.+)'\]\}", manifest)
    alive = tmp_path / "alive"

    def is_alive() -> bool:
        return subprocess.run(["sh", "-c", probe.replace("/tmp/alive", str(alive))], check=False).returncode == 0

    assert not is_alive()
    environ = clean_environ(tmp_path, PLANWIRE_REDIS_URL=store_url, PLANWIRE_ALIVE_FILE=str(alive))
    with running(python("-m", "sync.worker"), environ) as worker:
        await until(is_alive, START_TIMEOUT_S)
        worker.process.send_signal(signal.SIGSTOP)
        status = Path("/proc") / str(worker.process.pid) / "stat"
        await until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")
        # While it stands still: it would touch the file again.
        long_ago = alive.stat().st_mtime - 3600
        os.utime(alive, (long_ago, long_ago))
        assert not is_alive()
        worker.process.send_signal(signal.SIGCONT)
        await until(is_alive, START_TIMEOUT_S)


# Blanks around values.


async def test_line_ends_behind_values_mean_nothing(tmp_path: Path, store_url: str) -> None:
    values = environment(
        store_url,
        PORT=str(free_port()),
        HOST="127.0.0.1",
        JWT_ISSUER="https://issuer.example",
        JWT_AUDIENCE="app",
        LOG_LEVEL="info",
        WATCH_PID=str(os.getpid()),
    ) | {"WEB_CONCURRENCY": "2"}
    environ = clean_environ(tmp_path) | {name: f" {value}\n" for name, value in values.items()}
    now = int(time.time())
    claims = {"sub": "x", "iat": now, "exp": now + 60, "topics": ["*"], "iss": "https://issuer.example", "aud": "app"}
    async with (
        started(tmp_path, environ) as process,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{process.port}", trust_env=False) as client,
    ):
        bearer = {"Authorization": f"Bearer {jwt.encode(claims, values['PLANWIRE_JWT_SECRET'], 'HS256')}"}
        assert (await client.get("/v1/state/tenant:acme", headers=bearer)).status_code == 200
        key = {"Authorization": f"Bearer {PUBLISH_KEY}"}
        answer = await client.post("/v1/publish", json={"topic": "user:1", "state": {}}, headers=key)
        assert answer.status_code == 200


# What cannot be used.


WRONG = {
    "a store URL without a scheme": ({"REDIS_URL": "localhost:6379"}, "PLANWIRE_REDIS_URL: it has no scheme"),
    "an option that no store has": ({"REDIS_URL": "redis://127.0.0.1/0?tls=1"}, "PLANWIRE_REDIS_URL: an option (tls)"),
    "a certificate that is not there": (
        {"REDIS_URL": "rediss://127.0.0.1/0?ssl_ca_certs=/nowhere"},
        "PLANWIRE_REDIS_URL: ",
    ),
    "a data directory that cannot be": ({"REDIS_URL": "", "DATA_DIR": "/proc/planwire"}, "PLANWIRE_DATA_DIR: /proc/"),
    "a data directory that is a file": ({"REDIS_URL": "", "DATA_DIR": "/dev/null"}, "PLANWIRE_DATA_DIR: /dev/null"),
    "a catalog that is not there": ({"CATALOG": "/nowhere.toml"}, "PLANWIRE_CATALOG: /nowhere.toml:1: "),
    "a catalog that is none": ({"CATALOG": "README.md"}, "PLANWIRE_CATALOG: README.md:"),
    "secrets and no catalog": ({"CATALOG": "", "PADDLE_SECRETS": "live:x"}, "PLANWIRE_CATALOG must be set"),
    "secrets without their environment": ({"PADDLE_SECRETS": "pdl_ntfset_x"}, "PLANWIRE_PADDLE_SECRETS: must be"),
    "a source in the clear": ({"SOURCE_URL": "http://app.example/plan"}, "PLANWIRE_SOURCE_URL must be https"),
    "a source without a secret": ({"SOURCE_URL": "https://app.example/plan"}, "PLANWIRE_SOURCE_SECRET must have"),
    "a test key for live": ({"STRIPE_API_KEYS": "live:sk_test_x"}, "PLANWIRE_STRIPE_API_KEYS has a key of"),
    "an SDK that is missing": ({"PADDLE_API_KEYS": "live:x"}, "PLANWIRE_PADDLE_API_KEYS: paddle-python-sdk"),
    "a network that is none": ({"TRUSTED_PROXIES": "10.0.0.0/33"}, "PLANWIRE_TRUSTED_PROXIES: '10.0.0.0/33'"),
    "a host that is none": ({"HOST": "no.such.host.invalid"}, "PLANWIRE_HOST: 'no.such.host.invalid'"),
    "an address of another machine": ({"HOST": "192.0.2.1"}, "PLANWIRE_HOST: 192.0.2.1 is not an address of"),
}


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_used_is_one_line_and_exit_2(tmp_path: Path, case: str, workers: str) -> None:
    wrong, says = WRONG[case]
    (tmp_path / "sitecustomize.py").write_text(NO_SDK)
    good = environment("redis://127.0.0.1:1/0", INTAKE="1", CATALOG=EXAMPLE_CATALOG) | {"WEB_CONCURRENCY": workers}
    environ = clean_environ(tmp_path, **good) | {f"PLANWIRE_{name}": value for name, value in wrong.items()}
    environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environ['PYTHONPATH']}"
    done = ended(web, environ)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"planwire: {says}")


@pytest.mark.parametrize("shape", ["beside it", "it exists", "its store exists", "another user's lock"])
@pytest.mark.parametrize(
    ("module", "start", "name"),
    [
        ("gateway.server.main", "{0}.main()", "planwire"),
        ("sync.worker", "sys.exit({0}.main(os.environ))", "planwire worker"),
    ],
)
def test_a_data_directory_that_this_user_may_not_write_to_is_one_line_and_exit_2(
    module: str, start: str, name: str, shape: str
) -> None:
    """Once its modules are loaded the process becomes one of a user who may not write everywhere."""
    top = Path(tempfile.mkdtemp(prefix="pw-"))
    data_dir = top / "data"
    try:
        if shape != "beside it":
            data_dir.mkdir()
        if shape == "its store exists":
            (data_dir / "store").mkdir()
            (data_dir / "store").chmod(0o555)
        if shape == "another user's lock":
            (data_dir / "store").mkdir()
            (data_dir / "store").chmod(0o777)
            (data_dir / "store.lock").touch(0o400)
            data_dir.chmod(0o777)
        elif data_dir.exists():
            data_dir.chmod(0o555)
        top.chmod(0o555)
        program = f"import os, sys, {module}; os.geteuid() or os.setuid(65534); {start.format(module)}"
        done = ended(python("-c", program), clean_environ(data_dir) | environment("", DATA_DIR=str(data_dir)))
    finally:
        for path in (top, data_dir, data_dir / "store"):
            if path.exists():
                path.chmod(0o755)
        shutil.rmtree(top)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"{name}: PLANWIRE_DATA_DIR: {data_dir}")
    assert "cannot be used" in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_is_one_line_and_exit_2(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        environ = clean_environ(tmp_path, **environment("redis://127.0.0.1:1/0", PORT=port), WEB_CONCURRENCY=workers)
        done = ended(web, environ)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"planwire: PORT: {port} on 127.0.0.1 is taken by another program")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_shows_only_once_the_store_is_started_ends_all_with_exit_2(tmp_path: Path, workers: str) -> None:
    files = tmp_path / "store" / "appendonlydir"
    files.mkdir(parents=True)
    (files / "appendonly.aof.manifest").write_text("file appendonly.aof.1.base.rdb seq 1 type b\n")
    (files / "appendonly.aof.1.base.rdb").write_bytes(b"this is no database\n")
    environ = clean_environ(tmp_path) | environment("", DATA_DIR=str(tmp_path)) | {"WEB_CONCURRENCY": workers}
    done = ended(web, environ)
    assert done.returncode == 2, done.stderr
    plain = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(plain) == 1, done.stderr
    assert plain[0].startswith(f"planwire: PLANWIRE_DATA_DIR: the store of {tmp_path} did not start")
    assert "Traceback" not in done.stderr
    assert 1 <= done.stderr.count("Started server process") <= int(workers), "none is started a second time"


async def test_development_mode_that_others_can_reach_is_refused_and_where_it_is_allowed_it_is_loud(
    tmp_path: Path, store_url: str
) -> None:
    environ = clean_environ(tmp_path, **environment(store_url, PORT=str(free_port()), DEV="1", HOST="0.0.0.0"))
    done = ended(web, environ)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("planwire: PLANWIRE_DEV: development mode is for loopback")
    async with started(tmp_path, environ | {"PLANWIRE_DEV_INSECURE_HOST": "1"}) as process:
        (line,) = [one for one in process.lines() if "INSECURE" in str(one["event"])]
        assert (line["level"], line["host"]) == ("error", "0.0.0.0")


# IPv4 and IPv6.


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_host_of_all_addresses_takes_ipv4_and_ipv6_and_tells_clients_apart(
    tmp_path: Path, store_url: str, workers: str
) -> None:
    if not has_ipv6():
        missing("this machine has no IPv6")
    environ = environment(
        store_url, PORT=str(free_port()), HOST="::", TRUSTED_PROXIES="127.0.0.1,::1", SOCKETS_PER_ADDRESS="1"
    )
    async with started(tmp_path, clean_environ(tmp_path, **environ, WEB_CONCURRENCY=workers)) as process:

        async def peer(host: str, forwarded: str | None = None) -> str:
            """Return the address that the gateway logs for a client."""
            sub = f"{host} {forwarded}"
            headers = {"X-Forwarded-For": forwarded} if forwarded else {}
            url = f"ws://{host}:{process.port}/v1/connect"
            async with connect(url, subprotocols=[Subprotocol("planwire.v1")], additional_headers=headers) as socket_:
                await socket_.send(json.dumps({"type": "hello", "token": token(sub=sub), "topics": {}}))
                assert json.loads(await socket_.recv())["type"] == "welcome"

            def logged() -> str:
                found = [line for line in process.lines() if line.get("event") == "connect" and line["sub"] == sub]
                return str(found[0]["peer"]) if found else ""

            return await until(logged)

        assert await peer("127.0.0.1") == "127.0.0.1"
        assert await peer("[::1]") == "::1"
        # A trusted proxy's IPv4 address is known also where it comes inside IPv6.
        assert await peer("127.0.0.1", "198.51.100.7:51234") == "198.51.100.7"
        assert await peer("[::1]", "2001:DB8:0::1") == "2001:db8::1"


async def test_a_limit_per_address_counts_a_mapped_address_as_what_it_is(tmp_path: Path, store_url: str) -> None:
    if not has_ipv6():
        missing("this machine has no IPv6")
    environ = environment(store_url, PORT=str(free_port()), HOST="::", SOCKETS_PER_ADDRESS="1")
    async with started(tmp_path, clean_environ(tmp_path, **environ)) as process:
        options = {"subprotocols": [Subprotocol("planwire.v1")]}
        async with connect(f"ws://127.0.0.1:{process.port}/v1/connect", **options) as first:  # type: ignore[arg-type]
            await first.send(hello().decode())
            assert json.loads(await first.recv())["type"] == "welcome"
            with pytest.raises(InvalidStatus) as refused:
                async with connect(f"ws://127.0.0.1:{process.port}/v1/connect", **options):  # type: ignore[arg-type]
                    pass
            assert refused.value.response.status_code == 429
            async with connect(f"ws://127.0.0.2:{process.port}/v1/connect", **options, local_addr=("127.0.0.2", 0)):  # type: ignore[arg-type]
                pass


def test_a_name_of_several_addresses_has_one_port_on_all_of_them() -> None:
    sockets = listen("localhost", 0)
    try:
        assert len({one.getsockname()[1] for one in sockets}) == 1
        assert {one.getsockname()[0] for one in sockets} <= {"127.0.0.1", "::1"}
        for one in sockets:
            one.listen()
            with socket.create_connection(one.getsockname()[:2], timeout=5):
                pass
    finally:
        for one in sockets:
            one.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "0.0.0.0", "::"])
def test_each_form_of_an_address_is_listened_on(host: str) -> None:
    if ":" in host and not has_ipv6():
        missing("this machine has no IPv6")
    (one,) = listen(host, 0)
    with one:
        one.listen()
        for reached in {"::": ("::1", "127.0.0.1"), "0.0.0.0": ("127.0.0.1",)}.get(host, (host.strip("[]"),)):
            with socket.create_connection((reached, one.getsockname()[1]), timeout=5):
                pass
        if host == "::1" or host == "[::1]":
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", one.getsockname()[1]), timeout=5)


def test_a_host_that_is_none_is_named() -> None:
    for host in ("no.such.host.invalid", "1.2.3.4.5", "a" * 80 + ".example", "\N{SNOWMAN}..example"):
        with pytest.raises(SettingsError, match="PLANWIRE_HOST: "):
            listen(host, 0)
