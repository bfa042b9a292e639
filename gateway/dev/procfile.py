"""Runs the processes of a Procfile on one screen: honcho's manager, made safe against early signals and kill -9.

What honcho leaves open and this closes: a signal before all processes have started raises inside its handler; nobody
is killed when nobody reacts to SIGTERM; and when the manager itself is killed its helpers and their commands stay.
It needs honcho (the extra `run`), and knows nothing of what the processes do.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from honcho.environ import parse_procfile
from honcho.manager import SYSTEM_PRINTER_NAME, Manager
from honcho.printer import Printer
from honcho.process import Process

from gateway.errors import GatewayError
from sync.process import parent_watch

STOP_TIMEOUT_S = 7.0
"""From the first signal until everything that is left gets SIGKILL."""
ORPHAN_TIMEOUT_S = 5.0
"""The same for a process whose runner was killed."""
POLL_S = 0.1


class ProcfileError(GatewayError):
    """The Procfile cannot be read or names no process."""


def commands(procfile: Path) -> dict[str, str]:
    """Return process name -> shell command, in the file's order.

    Raises:
        ProcfileError: it cannot be read, repeats a name or names no process.
    """
    try:
        found: dict[str, str] = dict(parse_procfile(procfile.read_text(encoding="utf-8")).processes)
    except (OSError, ValueError, AssertionError) as error:
        raise ProcfileError(f"{procfile}: {error}") from error
    if not found:
        raise ProcfileError(f"{procfile} names no process")
    return found


class Screen(Printer):  # type: ignore[misc]
    """Prints the processes' lines with honcho's prefix and our own without; honcho's running commentary is dropped."""

    def __init__(self, output: TextIO) -> None:
        super().__init__(output)
        self._lock = threading.Lock()

    def write(self, message: Any) -> None:
        """Print one message of a process."""
        # Dropped first: honcho writes such lines inside its signal handler, where taking the lock could wait forever.
        if message.name != SYSTEM_PRINTER_NAME:
            with self._lock, self._unbroken():
                super().write(message)

    def say(self, line: str) -> None:
        """Print one line of our own."""
        with self._lock, self._unbroken():
            print(line, file=self.output, flush=True)

    @contextlib.contextmanager
    def _unbroken(self) -> Any:
        try:
            yield
        except OSError:
            # The reader (a pager, `head`) is gone, so the user is: stop, and stop printing.
            self.output = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process
            os.kill(os.getpid(), signal.SIGTERM)


class Child(Process):  # type: ignore[misc]
    """One command of the Procfile. `run` is the main function of a helper process that relays its output."""

    runner_pid = 0

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        """Run the command to its end, or until the runner is gone."""
        # Until honcho ignores the signals (only after the command has started, or it would inherit that):
        # Ctrl-C reaches this process too, and must not run the manager's handler here.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._outlive, args=(events,), daemon=True).start()
        super().run(events, ignore_signals)

    def _outlive(self, events: Any) -> None:
        """End the command when the runner has ended without doing so."""
        parent_watch.wait_for(self.runner_pid)
        events.cancel_join_thread()  # nobody reads them any more: do not wait for that at the end
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._child is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._child.pid, number)
            time.sleep(ORPHAN_TIMEOUT_S)
        os._exit(1)


class Runner(Manager):  # type: ignore[misc]
    """Starts every process, ends when they have ended; the first to end, or a signal, ends the others.

    on_start is called once with it, in a thread of its own.
    `ended`: the process that ended first by itself, and its status; None after a signal.
    """

    def __init__(self, screen: Screen, on_start: Callable[[Runner], None]) -> None:
        super().__init__(screen)
        self.screen = screen
        self.ended: tuple[str, int] | None = None
        self._process_ctor = Child
        self._on_start = on_start
        self._stopping_since: float | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether the processes have been told to stop."""
        return self._stopping_since is not None

    def add(self, name: str, command: str, environ: Mapping[str, str], directory: Path) -> None:
        """Add one process, to be started by `run`."""
        child = self.add_process(name, command, env=dict(environ), cwd=str(directory))
        child.runner_pid = os.getpid()

    def run(self) -> int:
        """Return the exit status once nothing is left: 0 when told to stop, 1 when a process ended by itself."""
        with contextlib.suppress(ValueError, OSError):
            if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
                signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        self.loop()
        return 1 if self.ended is not None else 0

    def terminate(self) -> None:
        """Tell every process to stop; also from a signal handler, also before they have started."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            self._note_ended()
        if super()._all_started():
            super().terminate()

    def _all_started(self) -> bool:
        # Asked by the manager's loop several times a second: the place to make up for an early signal.
        started = bool(super()._all_started())
        if started and self.is_stopping and not self._terminating:
            super().terminate()
        return started

    def _note_ended(self) -> None:
        for name, process in self._processes.items():
            if process.get("returncode") is not None and self.ended is None:
                self.ended = (name, int(process["returncode"]))

    def _start(self) -> None:
        super()._start()
        # Threads only from here on: the processes above may have been forked.
        threading.Thread(target=self._on_start, args=(self,), daemon=True).start()
        threading.Thread(target=self._hurry, daemon=True).start()

    def _hurry(self) -> None:
        """Kill what does not stop in time, helpers last."""
        while self._stopping_since is None or time.monotonic() < self._stopping_since + STOP_TIMEOUT_S:
            time.sleep(POLL_S)
        for process in self._processes.values():
            if process.get("pid") is not None and process.get("returncode") is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process["pid"], signal.SIGKILL)
        time.sleep(10 * POLL_S)
        # Still here: a helper is gone or stuck, and the manager would wait for its word forever.
        for process in self._processes.values():
            helper: multiprocessing.Process | None = process.get("process")
            if helper is not None:
                helper.kill()
        os._exit(1)
