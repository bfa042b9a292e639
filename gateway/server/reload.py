"""SIGHUP with several web processes: each is replaced in turn and drained. SIGTERM interrupts the replacement."""

from __future__ import annotations

import signal
import socket
import threading

import structlog
import uvicorn
from uvicorn.supervisors import multiprocess

POLL_S = 0.1
"""Interval between checks whether a process has ended or a stop signal has arrived."""

log = structlog.get_logger("gateway.server")


class Reloading(multiprocess.Multiprocess):
    """uvicorn's supervisor with a replacement of workers that SIGTERM and SIGINT interrupt.

    uvicorn handles signals only after all workers have been replaced, and each of them drains first.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._retired: list[multiprocess.Process] = []

    @property
    def is_stopping(self) -> bool:
        """Return whether a stop signal has arrived, handled or not."""
        return self.should_exit.is_set() or not {signal.SIGTERM, signal.SIGINT}.isdisjoint(self.signal_queue)

    def restart_all(self) -> None:
        """Replace each worker after its successor has started; end early if that fails or a stop signal arrives."""
        for index, old in enumerate(self.processes):
            new = multiprocess.Process(self.config, self.sockets)
            new.start()
            if not new.wait_until_ready(self.config.timeout_worker_healthcheck, _Stopping(self)):
                new.kill()
                new.join()
                if not self.is_stopping:
                    log.error("worker_not_replaced", pid=old.pid, reason="its successor did not start")
                return
            self.processes[index] = new
            self._retired.append(old)
            old.terminate()
            while old.process.is_alive():
                if self.is_stopping:
                    return
                old.process.join(POLL_S)
            self._retired.remove(old)

    def join_all(self) -> None:
        """Wait for all workers, including those that are draining after their replacement."""
        super().join_all()
        for process in self._retired:
            process.join()


class _Stopping(threading.Event):
    """Set while the supervisor is stopping."""

    def __init__(self, supervisor: Reloading) -> None:
        super().__init__()
        self._supervisor = supervisor

    def is_set(self) -> bool:
        return self._supervisor.is_stopping
