"""The embedded store: a Valkey in the data directory, shared by all processes with that directory.

The process with the lock owns the store: it starts, watches and stops the server. Other processes attach; one of them
takes over when the owner has ended. The server listens on a unix socket only. It needs POSIX (flock, fork).

    python -m sync.store.embedded      the `store` process: keeps the store up until SIGTERM, SIGINT or SIGHUP
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from sync.store.embedded import child_guard
from sync.store.embedded.data_dir import ATTACHED_LOCK, OWNER_LOCK, DataDir, EmbeddedError, find_binary, unusable

START_TIMEOUT_S = 15.0
"""Maximum time without a reply after a start. A LOADING reply (the server reads its file) restarts the time."""

LINGER_S = 4.0
"""Maximum time that a stopping owner waits for attached processes to end first."""

STOP_TIMEOUT_S = 4.0
"""Time that the server has to write its file after SIGTERM; then it is killed."""

POLL_S = 0.002
TAKEOVER_POLL_S = 0.1
RESTART_PAUSE_S = 0.5
PING_TIMEOUT_S = 1.0

_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def serve(
    data_dir: str | os.PathLike[str], *, max_wait_s: float = 0.0, durable: bool = False
) -> AsyncIterator[str]:
    """Yield the URL of the data directory's store. The store runs while the block lasts.

    The calling thread must live as long as the block: on Linux the kernel ends the server with that thread.

    Args:
        data_dir: the data directory; it is created if it is missing.
        max_wait_s: time that another process has to start the store; after it this process starts it.
        durable: fsync the append-only file on every write instead of every second (the owner's setting counts).

    Raises:
        EmbeddedError: there is no server program, the directory cannot be used, or the store does not answer.
    """
    place = DataDir.of(data_dir)
    place.prepare()
    keeper = _Keeper(place, durable)
    try:
        await keeper.enter(max_wait_s)
        keeping = asyncio.create_task(keeper.keep(), name="embedded-store")
        try:
            yield place.url
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
    finally:
        await keeper.leave()


def check(data_dir: str | os.PathLike[str]) -> None:
    """Return if a store can be started in this data directory. The directory is created if it is missing.

    Raises:
        EmbeddedError: there is no server program, or the directory cannot be used.
    """
    DataDir.of(data_dir).prepare()
    find_binary()


class _Keeper:
    """One process's role in a data directory: owner (has `_lock`) or attached (has `_seat`)."""

    def __init__(self, place: DataDir, durable: bool) -> None:
        self._place = place
        self._durable = durable
        self._lock: int | None = None
        self._seat: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def enter(self, max_wait_s: float = 0.0) -> None:
        """Return when the store answers. After `max_wait_s` without an owner, become the owner and start the store.

        Raises:
            EmbeddedError: the store does not start, or another process's store does not answer.
        """
        claim_at = time.monotonic() + max_wait_s
        silent_until = claim_at + START_TIMEOUT_S
        while True:
            if self._process is None and time.monotonic() >= claim_at and self._claim():
                self._process = self._spawn()
                silent_until = time.monotonic() + START_TIMEOUT_S
            if self._process is not None and self._process.poll() is not None:
                self._process = None
                raise self._failure("did not start")
            answer = await _ask(self._place.socket)
            if answer.startswith(b"+PONG") and (self._process is not None or self._sit_down()):
                return
            if answer.startswith(b"-LOADING"):
                silent_until = time.monotonic() + START_TIMEOUT_S
            if time.monotonic() > silent_until:
                if self._process is not None:
                    self._kill()
                    raise self._failure("does not answer")
                raise EmbeddedError(
                    f"PLANWIRE_DATA_DIR: the store of {self._place.data_dir} belongs to process "
                    f"{self._place.owner()} and does not answer; end that process and try again"
                )
            await asyncio.sleep(POLL_S)

    async def keep(self) -> None:
        """Keep the store running until cancelled: as the owner restart it; if the owner has ended, take it over."""
        while True:
            try:
                if self._process is not None:
                    await _ended(self._process, None, TAKEOVER_POLL_S)
                    _log.warning("store_ended", status=self._process.returncode, log=self._place.last_line())
                    self._process = None
                    await asyncio.sleep(RESTART_PAUSE_S)
                elif self._lock is not None:
                    await self.enter()
                elif self._claim():
                    _log.info("store_taken_over", data_dir=str(self._place.data_dir))
                else:
                    await asyncio.sleep(TAKEOVER_POLL_S)
            except (EmbeddedError, OSError) as error:
                _log.error("store_not_started", reason=str(error))
                await asyncio.sleep(RESTART_PAUSE_S)

    async def leave(self) -> None:
        """Detach; as the owner, wait for attached processes (at most LINGER_S), then stop the server."""
        try:
            if self._process is not None:
                with contextlib.suppress(EmbeddedError):  # the directory may have been removed
                    await self._linger()
                self._signal(signal.SIGTERM)
                await _ended(self._process, STOP_TIMEOUT_S, POLL_S)
        finally:
            # On cancellation this kills the server without waiting.
            self._kill()
            for descriptor in (self._seat, self._lock):
                if descriptor is not None:
                    os.close(descriptor)

    def _claim(self) -> bool:
        """Become the owner if there is none; return whether it worked. The kernel frees a dead process's lock."""
        if self._lock is not None:
            return True
        self._lock = self._place.lock(OWNER_LOCK, fcntl.LOCK_EX)
        if self._lock is None:
            return False
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        if self._seat is not None:
            os.close(self._seat)
            self._seat = None
        return True

    def _sit_down(self) -> bool:
        """Register as attached. Return False while the owner is stopping the store."""
        self._seat = self._place.lock(ATTACHED_LOCK, fcntl.LOCK_SH)
        return self._seat is not None

    def _failure(self, what: str) -> EmbeddedError:
        return EmbeddedError(
            f"PLANWIRE_DATA_DIR: the store of {self._place.data_dir} {what}: {self._place.last_line()}"
        )

    def _spawn(self) -> subprocess.Popen[bytes]:
        assert self._lock is not None, "only the owner starts the store"
        place, config = self._place, self._place.store_dir / "valkey.conf"
        command = child_guard.command(find_binary(), str(config), death_signal=signal.SIGTERM)
        try:
            config.write_bytes(place.configuration(self._durable))
            with place.log.open("wb") as log:
                return subprocess.Popen(  # noqa: S603 - our guard and the server program
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=place.store_dir,
                    pass_fds=[self._lock],
                    start_new_session=True,  # so that Ctrl-C does not reach the server, which stops last
                )
        except OSError as error:
            raise unusable(place.store_dir, error) from error

    async def _linger(self) -> None:
        """Wait until attached processes have ended (at most LINGER_S). After that no process can attach."""
        deadline = time.monotonic() + LINGER_S
        while self._seat is None and time.monotonic() < deadline:
            self._seat = self._place.lock(ATTACHED_LOCK, fcntl.LOCK_EX)
            if self._seat is None:
                await asyncio.sleep(POLL_S * 5)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's process group if it runs."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None


async def _ended(process: subprocess.Popen[bytes], timeout_s: float | None, every_s: float) -> None:
    """Return when the process has ended, or after the timeout. Polls, since event loops watch children differently."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while process.poll() is None and (deadline is None or time.monotonic() < deadline):  # noqa: ASYNC110 - see above
        await asyncio.sleep(every_s)


async def _ask(socket: Path) -> bytes:
    """Return the server's reply to PING, or b"" if there is none."""
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
