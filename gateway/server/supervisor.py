"""Several web processes on one port: the workers, and the supervisor that starts, replaces and ends them."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from multiprocessing import connection

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from gateway.errors import GatewayError
from gateway.server.server import Server
from gateway.settings import GatewaySettings
from sync.process import logs, parent_watch

log = structlog.get_logger("gateway.server")

COLLECT_AFTER = (20_000, 20, 50)
"""Thresholds of the garbage collector: net new objects per collection, and collections per older generation."""

EXIT_DIED = 1
"""Exit status of a web process that stopped because one of its tasks failed."""

EXIT_SETTINGS = 2
"""Exit status for a setting that cannot be used."""

POLL_S = 0.1
"""Interval between checks for ended processes and stop signals."""

RETRY_S = 30.0
"""Pause before the supervisor tries again to start a worker that failed to start while others serve."""


class Worker(multiprocess.Process):
    """One of several web processes on one port; runs our `Server`."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        # Read in the supervisor: it may be gone before the worker could read its parent's id.
        self._supervisor = os.getpid()
        self._reasons, self._reason_sink = multiprocessing.Pipe(duplex=False)
        super().__init__(config, sockets)

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve. This repeats the preparations of `main` in the worker's process."""
        try:
            settings = GatewaySettings.from_env(os.environ)
            logs.configure(settings.log_level, settings.log_format)
            # A killed supervisor cannot end its workers, so each watches it.
            parent_watch.watch(self._supervisor)
            if hasattr(signal, "SIGHUP"):
                # A closed terminal sends SIGHUP to the whole process group; only the supervisor handles it.
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            spare_collector(self.config)
            super().target(sockets)
            exit_if_died(self.server)
        except GatewayError as error:
            self._reason_sink.send(str(error))
            sys.exit(EXIT_SETTINGS)

    def _healthcheck(self, timeout: float) -> bool | None:
        """Return whether the worker serves; None if it does not answer. uvicorn would wait for a worker that ends."""
        try:
            self.parent_conn.send(b"ping")
            answered = connection.wait([self.parent_conn, self.process.sentinel], timeout)
            return bool(self.parent_conn.recv()) if self.parent_conn in answered else None
        except (OSError, EOFError):
            return None

    @property
    def server(self) -> Server:
        """The worker's server."""
        if not isinstance(self._server, Server):
            self._server = Server(self.config)
        return self._server

    @property
    def has_failed_to_start(self) -> bool:
        """Whether the worker ended before it served."""
        return self.exitcode in (EXIT_SETTINGS, STARTUP_FAILURE)

    def reason(self) -> str:
        """Return why the worker failed to start, in one line; empty if the reason is in its log."""
        with contextlib.suppress(EOFError, OSError):
            if self._reasons.poll():
                return str(self._reasons.recv())
        return ""


class _Stopping(threading.Event):
    """An event that is set once a stop signal has arrived, even before uvicorn has handled it."""

    def __init__(self, signals: list[int]) -> None:
        super().__init__()
        self._signals = signals

    def is_set(self) -> bool:
        return super().is_set() or not {signal.SIGTERM, signal.SIGINT}.isdisjoint(self._signals)


class Supervisor(multiprocess.Multiprocess):
    """uvicorn's supervisor, which also ends if no worker can start, and can be stopped while it replaces workers.

    If a worker cannot start while others serve, the supervisor tries again every RETRY_S. A setting that has become
    invalid thus does not end the workers that still run with the old one. uvicorn handles signals only after it has
    replaced and drained all workers; here SIGTERM and SIGINT interrupt the replacement.

    Attributes:
        status: the exit status of the supervisor.
    """

    status = 0

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self.should_exit = _Stopping(self.signal_queue)
        self._retries: list[float] = []

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have ended or hang. End if a worker failed to start and no other serves."""
        for due in [at for at in self._retries if at <= time.monotonic()]:
            self._retries.remove(due)
            self.processes.append(self._started())
        for process in list(self.processes):
            if self.should_exit.is_set():
                return
            if process.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            process.kill()
            process.join()
            # Check the exit code only now, because a worker may end during the health check.
            if isinstance(process, Worker) and process.has_failed_to_start:
                self.processes.remove(process)
                self._give_up_or_retry(process)
            else:
                log.error("worker_died", pid=process.pid, exit_code=process.exitcode)
                self.processes[self.processes.index(process)] = self._started()

    def _started(self) -> Worker:
        worker = Worker(self.config, self.sockets)
        worker.start()
        return worker

    def _give_up_or_retry(self, failed: Worker) -> None:
        reason = failed.reason()
        if any(other.exitcode is None and other.is_ready() for other in self.processes):
            log.error("worker_not_started", reason=reason, retry_s=RETRY_S)
            self._retries.append(time.monotonic() + RETRY_S)
            return
        if reason:
            print(f"planwire: {reason}", file=sys.stderr)
        self.status = failed.exitcode or STARTUP_FAILURE
        self.should_exit.set()

    def restart_all(self) -> None:
        """Replace workers one by one, each after its successor is ready. Return early on a failure or a stop signal."""
        for index, old in enumerate(list(self.processes)):
            new = self._started()
            if not new.wait_until_ready(self.config.timeout_worker_healthcheck, self.should_exit):
                new.kill()
                new.join()
                if not self.should_exit.is_set():
                    log.error("worker_not_replaced", pid=old.pid, reason="its successor did not start")
                return
            self.processes[index] = new
            old.terminate()
            while old.process.is_alive():
                if self.should_exit.is_set():
                    self.processes.append(old)  # still draining; the shutdown waits for it as for all others
                    return
                old.process.join(POLL_S)


def run_supervised(config: uvicorn.Config, sockets: list[socket.socket]) -> int:
    """Serve with several processes until a stop signal; return the exit status."""
    # uvicorn's supervisor creates its processes by this name; there is no other way to use a custom server.
    multiprocess.Process = Worker  # type: ignore[misc]
    supervisor = Supervisor(config, sockets)
    supervisor.run()
    return supervisor.status


def exit_if_died(server: Server) -> None:
    """Exit with EXIT_DIED if a task of the process failed, so that a supervisor restarts the process."""
    if server.started and server.node.has_died:
        sys.exit(EXIT_DIED)


def spare_collector(config: uvicorn.Config) -> None:
    """Reduce garbage collection: load the app, freeze its objects, and raise the thresholds.

    Every open socket is a dozen objects without cycles. With the defaults, searching them for garbage takes a tenth of
    the CPU time while many clients connect.
    """
    config.load()
    gc.set_threshold(*COLLECT_AFTER)
    gc.collect()
    gc.freeze()
