"""Shared parts of all benchmarks: servers pinned to core 0, store and load client to core 1, rounds, one table.

Baselines run in the same rounds as the gateway, because a shared machine drifts within minutes: ratios within one round
are comparable, numbers from two runs are not. Built and fetched files go to benchmarks/.work, which git ignores.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from gateway.auth.tokens import mint
from planwire_client.core.commit import LUA
from sync.store.embedded.data_dir import find_binary

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = HERE / ".work"
SERVER_CORE, LOAD_CORE = 0, 1
SECRET = "a-benchmark-secret-of-at-least-32-bytes"
PUBLISH_KEY = "a-benchmark-publish-key"
START_TIMEOUT_S = 20.0
LOOK = ("--look", "500")
"""In a burst the load client polls its sockets at this interval in microseconds instead of waking for each frame."""

QUIET_SHARE = 0.15
"""Share of a core that other processes may use before a round is postponed."""

QUIET_MAX_WAIT_S = 20.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A server under load.

    Attributes:
        command: its arguments; `{port}` and `{store}` are filled in.
        load: what the load client needs to speak to it.
        environ: its environment, with the same fields filled in.
        ready: path that answers 200 when it serves; empty: its port accepting is enough.
        prepare: called with its folder and port before it starts.
    """

    name: str
    command: Sequence[str]
    load: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    ready: str = ""
    prepare: Callable[[Path, int], None] | None = None
    is_planwire: bool = False


def gateway(name: str = "planwire", root: Path = ROOT, **settings: str) -> Candidate:
    """Return the real web process with tokens, metrics, heartbeats, logging, sweep and probe, but without intake."""
    import hashlib

    environ = {
        "PORT": "{port}",
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "clients" / "python")]),
        "PLANWIRE_REDIS_URL": "redis://127.0.0.1:{store}",
        "PLANWIRE_JWT_SECRET": SECRET,
        "PLANWIRE_ALLOWED_ORIGINS": "http://127.0.0.1:{port}",
        "PLANWIRE_PUBLISH_KEYS": f"bench:{hashlib.sha256(PUBLISH_KEY.encode()).hexdigest()}:1000000",
        "PLANWIRE_SOCKETS_PER_ADDRESS": "50000",
        "PLANWIRE_INTAKE": "0",
        "PLANWIRE_DRAIN_S": "0",
        **{f"PLANWIRE_{key}": value for key, value in settings.items()},
    }
    command = [sys.executable, "-m", "gateway.server"]
    return Candidate(name, command, environ=environ, ready="/readyz", is_planwire=True)


def floor() -> Candidate:
    """Return the C floor."""
    return Candidate("C floor", [str(build("floor", "-lcrypto")), "{port}", "{store}"])


def nchan() -> Candidate | None:
    """Return nchan on Debian's nginx, or None if it is not available."""
    module = next(WORK.glob("nchan/**/ngx_nchan_module.so"), None)
    if module is None and shutil.which("apt-get") and shutil.which("dpkg"):
        folder = WORK / "nchan"
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "libnginx-mod-nchan"], cwd=folder, check=False, capture_output=True)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder], check=True)
        module = next(folder.glob("**/ngx_nchan_module.so"), None)
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if module is None or nginx is None:
        return None

    def prepare(folder: Path, port: int) -> None:
        text = (HERE / "baselines" / "nchan.conf").read_text()
        (folder / "nchan.conf").write_text(text.replace("@PORT@", str(port)).replace("@MODULE@", str(module)))

    command = [nginx, "-p", "{folder}/", "-c", "{folder}/nchan.conf", "-e", "{folder}/nginx.log"]
    return Candidate("nchan", command, ["--http", "/pub/%d", "--ready-when-open"], prepare=prepare)


def node_modules() -> tuple[str, Path] | None:
    """Return Node and the folder with the packages of baselines/package-lock.json, or None if not available."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    folder = WORK / "node"
    lock = (HERE / "baselines" / "package-lock.json").read_bytes()
    done = folder / "node_modules" / "installed"
    if not done.exists() or done.read_bytes() != lock:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (".npmrc", "package.json", "package-lock.json"):
            shutil.copy(HERE / "baselines" / name, folder)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        done.write_bytes(lock)
    return node, folder / "node_modules"


def node_ws() -> Candidate | None:
    """Return a Node gateway on ws, or None without Node."""
    if (found := node_modules()) is None:
        return None
    node, modules = found
    script = HERE / "baselines" / "ws.js"
    return Candidate("Node ws", [node, str(script), "{port}", "{store}"], environ={"NODE_PATH": str(modules)})


def other_python() -> Path | None:
    """Return a Python with the libraries of locks/benchmarks.txt, or None if not available."""
    folder = WORK / "python"
    command = ["sh", str(ROOT / "locks" / "environment.sh"), "locks/benchmarks.txt", str(folder)]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode != 0:
        print(made.stderr[-500:], file=sys.stderr)
        return None
    return folder / "bin" / "python"


def naive() -> Candidate:
    """Return the naive Starlette gateway with uvicorn's defaults: it compresses for each socket that offers it."""
    command = [sys.executable, "-m", "uvicorn", "naive:app", "--port", "{port}", "--log-level", "warning"]
    options = ["--loop", "uvloop", "--no-access-log", "--backlog", "4096"]
    environ = {"PYTHONPATH": str(HERE / "baselines"), "STORE_PORT": "{store}"}
    return Candidate("naive Starlette", [*command, *options], environ=environ)


def build(name: str, *libraries: str) -> Path:
    """Return the program built from `name`.c, recompiled unless it is newer than its source."""
    source, binary = HERE / f"{name}.c", WORK / name
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        WORK.mkdir(exist_ok=True)
        subprocess.run(["cc", "-O2", "-o", binary, source, *libraries], check=True)
    return binary


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """Return `command` bound to one core."""
    return ["taskset", "-c", str(core), *command]


@contextlib.contextmanager
def process(
    command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` within the block."""
    with log.open("wb") as out:
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environ)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(5)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextlib.contextmanager
def store(folder: Path, *options: str, core: int = LOAD_CORE) -> Iterator[int]:
    """Run a store without persistence, with the commit script loaded. Yield its port."""
    port = free_port()
    base = [find_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command = pinned(core, [*base, "--appendonly", "no", *options])
    with process(command, folder / f"store-{port}.log") as server, redis.Redis(port=port) as client:
        until = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                client.script_load(LUA)
                break
            except redis.ConnectionError:
                if time.monotonic() > until or server.poll() is not None:
                    raise
                time.sleep(0.02)
        yield port


@contextlib.contextmanager
def serve(
    candidate: Candidate, folder: Path, store_port: int, core: int = SERVER_CORE
) -> Iterator[tuple[int, list[int]]]:
    """Run a candidate within the block. Yield its port and process ids."""
    port = free_port()
    names = {"port": str(port), "store": str(store_port), "folder": str(folder)}

    def fill(text: str) -> str:
        for name, value in names.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    if candidate.prepare is not None:
        candidate.prepare(folder, port)
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    environ.update({name: fill(value) for name, value in candidate.environ.items()})
    command = pinned(core, [fill(part) for part in candidate.command])
    log = folder / f"{candidate.name.replace(' ', '-')}-{port}.log"
    with process(command, log, environ) as server:
        until = time.monotonic() + START_TIMEOUT_S
        while not _answers(port, candidate.ready):
            if time.monotonic() > until or server.poll() is not None:
                raise SystemExit(f"{candidate.name} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        time.sleep(0.5)
        yield port, tree(server.pid)


def _answers(port: int, path: str) -> bool:
    try:
        if path:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1) as answer:
                return bool(answer.status == 200)
        socket.create_connection(("127.0.0.1", port), 0.5).close()
        return True
    except OSError:
        return False


def tree(pid: int) -> list[int]:
    """Return the ids of a process and all processes below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in tree(int(child)))]


def tokens(folder: Path, count: int) -> Path:
    """Return a file of `count` tokens, each with its own subject, so that no check is answered from a cache."""
    file = folder / f"tokens-{count}"
    if not file.exists():
        now = time.time()
        lines = (mint(SECRET, topics=["*"], now=now, ttl_s=86_400, sub=f"user-{index}") for index in range(count))
        file.write_text("\n".join(lines) + "\n")
    return file


class Load:
    """A load client with its sockets open. `opening` is its first line: the cost of connecting."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.opening = self._line()

    def run(self, phase: str) -> Row:
        """Run one phase, return its result: burst:BYTES:COUNT:WINDOW, rate:BYTES:PER_S:SECONDS or idle:SECONDS."""
        assert self._process.stdin is not None
        self._process.stdin.write(phase.encode() + b"\n")
        self._process.stdin.flush()
        row = self._line()
        # At a fixed rate the gateway may skip a version for a newer one; updates sent one at a time must all arrive.
        if row["stalled"] or (phase.startswith("burst") and row["delivered"] != row["wanted"]):
            print(f"warning: {row}", file=sys.stderr)
        return row

    def _line(self) -> Row:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the load client ended: {self._process.wait()}")
        row: Row = json.loads(line)
        return row


@contextlib.contextmanager
def load(candidate: Candidate, folder: Path, sockets: int, topics: int, *extra: str) -> Iterator[Load]:
    """Run a candidate with its own store and a load client. Yield the load client once its sockets are open."""
    with store(folder) as store_port, serve(candidate, folder, store_port) as (port, pids):
        command = [str(build("load", "-lz")), "--port", str(port), "--sockets", str(sockets), "--topics", str(topics)]
        command += ["--name", candidate.name, "--pids", ",".join(map(str, pids)), *candidate.load]
        if "--http" not in candidate.load:
            with redis.Redis(port=store_port) as client:
                sha = client.script_load(LUA)
            command += ["--store", str(store_port), "--sha", str(sha)]
        if candidate.is_planwire:
            command += ["--tokens", str(tokens(folder, sockets))]
        pinned_command = pinned(LOAD_CORE, [*command, *extra])
        with subprocess.Popen(pinned_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                yield Load(process)
            finally:
                process.kill()


CANDIDATES: dict[str, Callable[[], Candidate | None]] = {
    "planwire": gateway,
    "floor": floor,
    "nchan": nchan,
    "ws": node_ws,
    "naive": naive,
}


def candidates(names: Sequence[str]) -> list[Candidate]:
    """Return the named candidates (default: all) that are available on this machine."""
    found = [make() for name, make in CANDIDATES.items() if not names or name in names]
    return [candidate for candidate in found if candidate is not None]


def interleaved(loads: Mapping[str, Load], phases: Sequence[str], rounds: int) -> dict[tuple[str, str], list[Row]]:
    """Return each candidate's rows of each phase. Candidates run one after the other within seconds, `rounds` times.

    All stay open and only one is driven at a time, so that drift on a shared machine affects all of them alike.
    """
    rows: dict[tuple[str, str], list[Row]] = {}
    names = list(loads)
    for turn in range(rounds):
        wait_until_quiet()
        for phase in phases:
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                rows.setdefault((name, phase), []).append(loads[name].run(phase))
    return rows


def cpu_s(pids: Sequence[int]) -> float:
    """Return the CPU seconds of all threads of these processes."""
    files = (file for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def wait_until_quiet() -> float:
    """Wait for low CPU use by other processes and return it, as a share of both cores. Warn if it stays high."""
    until = time.monotonic() + QUIET_MAX_WAIT_S
    while True:
        before = _busy()
        time.sleep(1.0)
        after = _busy()
        share = (after[0] - before[0]) / max(1, after[1] - before[1])
        if share < QUIET_SHARE:
            return share
        if time.monotonic() > until:
            print(f"warning: others use {share:.0%} of the machine", file=sys.stderr)
            return share


def _busy() -> tuple[int, int]:
    ticks = [int(part) for part in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def raise_file_limit() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def heading() -> str:
    """Return the heading: date, commit, machine and command."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    command = " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    return (
        f"{now} · commit {commit or 'none'} · {os.cpu_count()} x {cpu}, Linux {platform.release()}, "
        f"CPython {platform.python_version()} · `{command}`"
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print one Markdown table, with the machine below it."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(column), *(len(row[index]) for row in cells)) for index, column in enumerate(columns)]
    print()
    print("| " + " | ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True)) + " |")
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in cells:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
    print()
    print(heading())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
