"""Runs the processes of a Procfile on one screen: honcho's manager, made safe against early signals and kill -9.

honcho has three gaps. Its signal handler raises if a signal arrives before all processes have started. It does not kill
processes that ignore SIGTERM. If it is killed, its helpers and commands keep running. Needs the extra `run`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from honcho.environ import parse_procfile
from honcho.manager import SYSTEM_PRINTER_NAME, Manager
from honcho.printer import Printer
from honcho.process import Process

from gateway.errors import GatewayError
from sync.process import parent_watch

STOP_TIMEOUT_S = 7.0
"""Seconds from the first signal until the remaining processes get SIGKILL."""
ORPHAN_TIMEOUT_S = 5.0
"""Seconds between SIGTERM and SIGKILL for a process whose runner was killed."""
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
    """Prints the processes' lines with honcho's prefix, and our own lines without. Drops honcho's own messages."""

    def __init__(self, output: TextIO) -> None:
        super().__init__(output)
        self._lock = threading.Lock()

    def write(self, message: Any) -> None:
        """Print one message of a process."""
        # Checked before the lock: honcho writes its messages in a signal handler, where the lock could block forever.
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
            # The reader (a pager, `head`) is gone: stop the system and discard further output.
            self.output = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process
            os.kill(os.getpid(), signal.SIGTERM)


class Child(Process):  # type: ignore[misc]
    """One command of the Procfile. `run` is the main function of a helper process that relays the command's output.

    Args:
        runner_pid: the command ends when the process with this id ends.
    """

    def __init__(self, *arguments: Any, runner_pid: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._runner_pid = runner_pid

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        """Run the command until it ends or the runner is gone."""
        # Ctrl-C also reaches this process and must not run the manager's handler here. honcho ignores the signals only
        # after the command has started, because the command would inherit ignored signals.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._outlive, args=(events,), daemon=True).start()
        super().run(events, ignore_signals)

    def _outlive(self, events: Any) -> None:
        """End the command when the runner is gone."""
        parent_watch.wait_for(self._runner_pid)
        events.cancel_join_thread()  # the reader of the events is gone: do not wait for it at exit
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._child is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._child.pid, number)
            time.sleep(ORPHAN_TIMEOUT_S)
        os._exit(1)


class Runner(Manager):  # type: ignore[misc]
    """Runs all processes. When one of them ends or a signal arrives, it ends the others.

    Args:
        screen: prints the output of the processes.
        on_start: called once with the runner, in a separate thread.

    Attributes:
        ended: name and exit status of the first process that ended by itself; None after a signal.
    """

    def __init__(self, screen: Screen, on_start: Callable[[Runner], None]) -> None:
        super().__init__(screen)
        self.ended: tuple[str, int] | None = None
        self._process_ctor = partial(Child, runner_pid=os.getpid())
        self._on_start = on_start
        self._stopping_since: float | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether the processes are being stopped."""
        return self._stopping_since is not None

    def run(self) -> int:
        """Run until all processes have ended. Return 0 after a signal, 1 if a process ended by itself."""
        with contextlib.suppress(ValueError, OSError):
            if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
                signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        self.loop()
        return 1 if self.ended is not None else 0

    def terminate(self) -> None:
        """Stop every process. It may be called in a signal handler, and before all processes have started."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            ended = ((name, one.get("returncode")) for name, one in self._processes.items())
            self.ended = next(((name, int(code)) for name, code in ended if code is not None), None)
        if super()._all_started():
            super().terminate()

    def _all_started(self) -> bool:
        # The manager's loop calls this several times a second. It terminates here after a signal that came too early.
        started = bool(super()._all_started())
        if started and self.is_stopping and not self._terminating:
            super().terminate()
        return started

    def _start(self) -> None:
        super()._start()
        # Start threads only now, because the processes above may be forked.
        threading.Thread(target=self._on_start, args=(self,), daemon=True).start()
        threading.Thread(target=self._hurry, daemon=True).start()

    def _hurry(self) -> None:
        """Kill processes that do not stop in time, then their helpers."""
        while self._stopping_since is None or time.monotonic() < self._stopping_since + STOP_TIMEOUT_S:
            time.sleep(POLL_S)
        for process in self._processes.values():
            if process.get("pid") is not None and process.get("returncode") is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process["pid"], signal.SIGKILL)
        time.sleep(10 * POLL_S)
        # If this process still runs, a helper is gone or stuck, and the manager would wait for it forever.
        for process in self._processes.values():
            helper: multiprocessing.Process | None = process.get("process")
            if helper is not None:
                helper.kill()
        os._exit(1)
