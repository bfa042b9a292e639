"""A real PostgreSQL for tests: in a temporary directory, on a unix socket, as an ordinary user even where root runs it.

It dies with the test process. `PG_BIN` names the folder of its programs where they are not in a usual place.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from sync.store.embedded import child_guard
from tests.support.servers import missing

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.02
USERS = ("postgres", "nobody")


class Postgres:
    """A running server; each test gets a database of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = 0

    def url(self, database: str) -> str:
        """The libpq URL of a database."""
        return f"postgresql://planwire@/{database}?host={self.folder}"

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """A fresh database, dropped on exit; gives its URL."""
        self._made += 1
        name = f"d{os.getpid()}_{self._made}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield self.url(name)
        finally:
            with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def binary_folder() -> Path:
    """Where initdb and postgres are; without them the test is skipped (failed under CI)."""
    named = os.environ.get("PG_BIN")
    usual = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: int(one.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    found = [Path(named)] if named else [*usual, *([Path(on_path).resolve().parent] if on_path else [])]
    for folder in found:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    missing("no PostgreSQL server (Debian: apt-get install postgresql), and PG_BIN does not name its programs")


@contextlib.contextmanager
def start_postgres(*, fsync: bool = False) -> Iterator[Postgres]:
    """A running server, stopped and removed on exit. Only with `fsync` is anything synced to disk."""
    programs = binary_folder()
    # Not pytest's tmp_path: its names are too long for a unix socket.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    data = folder / "data"
    prefix: list[str] = []
    if os.geteuid() == 0:
        user = _user()
        os.chown(folder, user.pw_uid, user.pw_gid)
        prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    process: subprocess.Popen[bytes] | None = None
    try:
        initdb = [str(programs / "initdb"), "-D", str(data), "-U", "planwire", "-A", "trust", "-E", "UTF8", "-N"]
        made = subprocess.run([*prefix, *initdb, "--locale=C"], cwd=folder, capture_output=True, check=False)
        assert made.returncode == 0, made.stderr.decode(errors="replace")[-800:]
        options = ["-c", f"fsync={'on' if fsync else 'off'}", "-c", "listen_addresses=", "-c", "max_connections=60"]
        command = [str(programs / "postgres"), "-D", str(data), "-k", str(folder), *options]
        if prefix:
            # The kernel forgets what a process asked for when it changes its user: setpriv asks after that.
            command = [*prefix, "--pdeathsig=INT", *command]
        elif child_guard.KERNEL_HELPS:
            command = child_guard.command(command[0], *command[1:], death_signal=signal.SIGINT)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        server = Postgres(folder)
        _wait_until_it_answers(server, process)
        yield server
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # a fast shutdown: connections are cut
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_TIMEOUT_S)
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> pwd.struct_passwd:
    """The ordinary user that the server runs as where the tests run as root, which it refuses."""
    if shutil.which("setpriv") is None:
        missing("PostgreSQL does not run as root, and there is no setpriv to become somebody else")
    for name in USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    missing(f"PostgreSQL does not run as root, and none of the users {', '.join(USERS)} exists")


def _wait_until_it_answers(server: Postgres, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(server.url("postgres")):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"it did not start: {(server.folder / 'log').read_text(errors='replace')[-800:]}")
        time.sleep(POLL_S)
