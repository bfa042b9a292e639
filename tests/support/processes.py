"""Real processes of ours: starting one with a data directory of its own, and finding everything that it left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
"""Where Python finds the packages of this checkout."""

LOOKS = 100
LOOK_S = 0.005


def clean_environ(data_dir: Path, **more: str) -> dict[str, str]:
    """The test process's environment without settings of ours, then the data directory and `more`."""
    ours = ("PLANWIRE_", "X_PLANWIRE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours) and name != "PORT"}
    return kept | {"PLANWIRE_DATA_DIR": str(data_dir), "PYTHONPATH": SOURCES} | more


def end_group(process: subprocess.Popen[bytes], timeout_s: float = 5.0) -> None:
    """End a process that leads a session, and all it has started there: SIGTERM, and SIGKILL after the timeout."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def alive_with(data_dir: Path) -> dict[int, str]:
    """Process id -> command line of every process that belongs to this data directory; zombies do not count.

    Its environment names the directory, or it works inside it (a store server writes its title over its environment).
    """
    if not Path("/proc/self/environ").exists():
        pytest.skip("finding processes by their environment needs /proc")
    marker = f"PLANWIRE_DATA_DIR={data_dir}".encode()
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            works_inside = (entry / "cwd").readlink().is_relative_to(data_dir)
            if works_inside or marker in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def servers_of(data_dir: Path) -> list[int]:
    """The ids of the store servers that run for this data directory (not those of their guards)."""
    binaries = ("valkey-server", "redis-server")
    return [pid for pid, line in alive_with(data_dir).items() if line.partition(" ")[0].endswith(binaries)]


class Running:
    """A started program whose output is collected while it runs. `text`: all of it so far."""

    def __init__(self, command: list[str], environ: Mapping[str, str], cwd: Path = ROOT) -> None:
        self.process = subprocess.Popen(
            command,
            env=dict(environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.text = ""
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    @property
    def lines(self) -> list[str]:
        """The output's lines."""
        return self.text.splitlines()

    def status(self) -> int | None:
        """The exit status, None while it runs."""
        return self.process.poll()

    @property
    def has_ended(self) -> bool:
        """Whether it has ended and all that it has written is read; not while something it started can still write."""
        return self.process.poll() is not None and not self._reader.is_alive()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line

    def close(self) -> None:
        """Kill it if it runs, and close its output."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        # Closing would wait for the reader, and no signal would interrupt it.
        assert not self._reader.is_alive(), "something that it started lives on, and can still write to its output"
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def running(command: list[str], environ: Mapping[str, str], cwd: Path = ROOT) -> Iterator[Running]:
    """A running program. On exit it is killed, and with it whatever still names its data directory."""
    program = Running(command, environ, cwd)
    try:
        yield program
    finally:
        left, was_empty = [program.process.pid], False
        for _ in range(LOOKS):  # what is killed may have just started another
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            left = list(alive_with(Path(environ["PLANWIRE_DATA_DIR"])))
            if not left and was_empty:
                break
            was_empty = not left
            time.sleep(LOOK_S)  # in the middle of an exec its environment reads as empty
        program.close()


def python(*arguments: str) -> list[str]:
    """The command that runs this interpreter with `arguments`."""
    return [sys.executable, *arguments]
