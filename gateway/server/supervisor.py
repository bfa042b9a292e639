"""Several web processes on one port: what runs in each, and what starts, replaces and ends them."""

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
"""Objects made, net, until the garbage collector looks at the newest; collections of each generation until the next."""

EXIT_DIED = 1
"""Exit status of a web process that stopped because one of its tasks failed."""

EXIT_SETTINGS = 2
"""The exit status where a setting, or what it names, cannot be used."""

POLL_S = 0.1
"""Interval between checks whether a process has ended or a stop signal has arrived."""

RETRY_S = 30.0
"""How long the supervisor waits before it tries once more to start a worker beside others that serve."""


class Worker(multiprocess.Process):
    """A web process of several on one port, with our server in it."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        # Noted here, in the supervisor: it may be gone before the worker could ask who its parent is.
        self._supervisor = os.getpid()
        self._reasons, self._reason_sink = multiprocessing.Pipe(duplex=False)
        super().__init__(config, sockets)

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve. What `main` prepares in its own process is prepared here again, in the worker's."""
        try:
            settings = GatewaySettings.from_env(os.environ)
            logs.configure(settings.log_level, settings.log_format)
            # The supervisor ends its workers, but not when it is killed.
            parent_watch.watch(self._supervisor)
            if hasattr(signal, "SIGHUP"):
                # A closed terminal sends it to all processes of the group; the supervisor replaces its workers itself.
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            spare_collector(self.config)
            super().target(sockets)
            exit_if_died(self.server)
        except GatewayError as error:
            self._reason_sink.send(str(error))
            sys.exit(EXIT_SETTINGS)

    def _healthcheck(self, timeout: float) -> bool | None:
        """Return whether the worker serves, or None if it does not answer; uvicorn would wait for one that ends."""
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
        """Whether it has ended without having served."""
        return self.exitcode in (EXIT_SETTINGS, STARTUP_FAILURE)

    def reason(self) -> str:
        """Return why it failed to start, in one line; empty where its log says so."""
        with contextlib.suppress(EOFError, OSError):
            if self._reasons.poll():
                return str(self._reasons.recv())
        return ""


class _Stopping(threading.Event):
    """Set once a stop signal has arrived, handled or not."""

    def __init__(self, signals: list[int]) -> None:
        super().__init__()
        self._signals = signals

    def is_set(self) -> bool:
        return super().is_set() or not {signal.SIGTERM, signal.SIGINT}.isdisjoint(self._signals)


class Supervisor(multiprocess.Multiprocess):
    """uvicorn's supervisor, which ends where no worker can start, and stops while it replaces workers.

    Where others serve, a worker that cannot start is tried again every RETRY_S: a setting that was broken meanwhile
    does not end what still works with the old one. uvicorn handles signals only after all workers have been replaced,
    and each of them drains first; here SIGTERM and SIGINT interrupt the replacement.

    Attributes:
        status: the exit status of the whole.
    """

    status = 0

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self.should_exit = _Stopping(self.signal_queue)
        self._retries: list[float] = []

    def keep_subprocess_alive(self) -> None:
        """Replace the workers that have ended or hang; end where one could not start and no other serves."""
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
            # Asked only now: a worker may end while it is asked for a sign of life.
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
        """Replace each worker after its successor has started; end early if that fails or a stop signal arrives."""
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
                    self.processes.append(old)  # it is draining, and waited for at the end like all others
                    return
                old.process.join(POLL_S)


def run_supervised(config: uvicorn.Config, sockets: list[socket.socket]) -> int:
    """Serve with several processes until told to stop; return the exit status."""
    # uvicorn's supervisor makes its processes by this name; it has no other seam for a server of one's own.
    multiprocess.Process = Worker  # type: ignore[misc]
    supervisor = Supervisor(config, sockets)
    supervisor.run()
    return supervisor.status


def exit_if_died(server: Server) -> None:
    """Exit with EXIT_DIED if one of the process's tasks failed, so that its supervisor starts it again."""
    if server.started and server.node.has_died:
        sys.exit(EXIT_DIED)


def spare_collector(config: uvicorn.Config) -> None:
    """Keep the garbage collector from walking what stays: every open socket is a dozen objects that hold no cycle.

    By default a tenth of a storm of connects goes into looking for garbage among them.
    """
    config.load()
    gc.set_threshold(*COLLECT_AFTER)
    gc.collect()
    gc.freeze()
