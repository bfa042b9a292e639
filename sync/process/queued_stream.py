"""A text stream that never blocks its writer: the queue in front of a log that is a pipe, socket or terminal."""

from __future__ import annotations

import io
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import IO

QUEUE_MAX_BYTES = 1_048_576
"""Maximum size of the queue of unread log lines; further lines are dropped and counted."""

GATHER_S = 0.01
"""Time for which lines are collected before they are written together: a thread switch costs as much as a line."""


class QueuedStream(io.TextIOBase):
    """A text stream that writes in its own thread, so that `write` never blocks.

    A pipe holds 64 KiB. When its reader stops, a plain write blocks the event loop. This stream queues QUEUE_MAX_BYTES
    more, then drops and counts lines. When the reader continues, a notice with the number of dropped lines is written.

    Attributes:
        dropped: lines dropped so far.
        notice: returns the line for a number of dropped lines.
    """

    def __init__(self, stream: IO[str], notice: Callable[[int], str]) -> None:
        """Write to the descriptor of `stream`."""
        self.dropped = 0
        self._stream = stream  # kept open
        self._descriptor = stream.fileno()
        self.notice = notice
        self._noticed = 0
        # Reentrant: a signal handler may log while the main thread is in `write`.
        self._changed = threading.Condition(threading.RLock())
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> int:
        """Queue whole lines, or drop them. Return the length of `text`."""
        data = text.encode(errors="backslashreplace")
        with self._changed:
            if self._waiting_bytes + len(data) > QUEUE_MAX_BYTES:
                self.dropped += data.count(b"\n")
                return len(text)
            if not self._pieces:
                self._changed.notify_all()
            self._pieces.append(data)
            self._waiting_bytes += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
        return len(text)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def finish(self, timeout_s: float) -> None:
        """Return once everything is written, or after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting_bytes, timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self.dropped > self._noticed)
            time.sleep(GATHER_S)
            with self._changed:
                data = b"".join(self._pieces)
                self._pieces.clear()
                lost, self._noticed = self.dropped - self._noticed, self.dropped
            self._write_all(data + (self.notice(lost).encode() if lost else b""))
            with self._changed:
                self._waiting_bytes -= len(data)
                self._changed.notify_all()

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # another process that shares the descriptor has made it non-blocking
                poller = select.poll()
                poller.register(self._descriptor, select.POLLOUT)
                poller.poll()
            except OSError:
                return  # the reader has closed its end
