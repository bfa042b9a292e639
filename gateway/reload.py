"""SIGHUP to several web processes: each is replaced in turn, and drained; a SIGTERM meanwhile is not kept waiting."""

from __future__ import annotations

import signal
import socket
import threading

import structlog
import uvicorn
from uvicorn.supervisors import multiprocess

POLL_S = 0.1
"""How often it is looked whether a process has ended, or a signal to stop has come."""

log = structlog.get_logger("gateway.server")


class Reloading(multiprocess.Multiprocess):
    """uvicorn's supervisor, which can be told to stop while it replaces its workers.

    uvicorn looks at signals only when all of them are replaced, which takes each one's drain.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._retired: list[multiprocess.Process] = []

    @property
    def is_stopping(self) -> bool:
        """Whether a signal to stop has come, also one that has not been handled yet."""
        return self.should_exit.is_set() or not {signal.SIGTERM, signal.SIGINT}.isdisjoint(self.signal_queue)

    def restart_all(self) -> None:
        """Replace each worker, once its successor serves. Stop where that one does not, or when told to stop."""
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
        """Wait for all, also for those that were just being replaced."""
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
