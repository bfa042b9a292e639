"""One structured log per process, for our code and the libraries: JSON lines in production, text at a terminal.

Every process of both packages calls `configure` when it starts. This module sets form and level only; callers must not
log tokens, keys, signatures or states.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import io
import logging
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import IO, Literal, cast

import orjson
import structlog
from structlog.typing import Processor

from sync.core.plain_text import plain_lines

Level = Literal["debug", "info", "warning", "error"]
Form = Literal["json", "text"]

LIBRARY_LEVELS = {
    "uvicorn.access": logging.WARNING,
    "httpx2": logging.WARNING,
    "sse_starlette": logging.WARNING,
    "null_logger": logging.CRITICAL,  # the Paddle SDK's logger; it also raises every error that it logs
}
"""Levels of libraries that would otherwise write a line per request or per event."""

QUEUE_MAX_BYTES = 1_048_576
"""Maximum size of the queue of unread log lines; further lines are dropped and counted."""

GATHER_S = 0.01
"""Time for which lines are collected and then written together: a thread switch costs as much as a line."""

FINISH_S = 2.0
"""Maximum time that an ending process waits until its last log lines are read."""

LIMITED_BURST, LIMITED_EVERY_S = 10, 10.0
"""Limit on the lines of an event that clients can cause at will: burst, and seconds per further line."""


class QueuedStream(io.TextIOBase):
    """A text stream that writes in its own thread, so that `write` never blocks.

    A pipe holds 64 KiB. If its reader stops, a plain write blocks the event loop. This stream queues QUEUE_MAX_BYTES
    more, then drops and counts lines. When the reader continues, it writes a notice with the number of dropped lines.

    Attributes:
        dropped: lines dropped so far.
    """

    def __init__(self, stream: IO[str]) -> None:
        """Write to the descriptor of `stream`."""
        self.dropped = 0
        self._stream = stream  # keeps it open
        self._descriptor = stream.fileno()
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
            self._write_all(data)
            with self._changed:
                self._waiting_bytes -= len(data)
                self._changed.notify_all()
            if lost:
                structlog.get_logger(__name__).warning("log_lines_dropped", count=lost, reason="the log was not read")

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # another process with the same descriptor has made it non-blocking
                poller = select.poll()
                poller.register(self._descriptor, select.POLLOUT)
                poller.poll()
            except OSError:
                return  # the reader has closed its end


_lines: IO[str] | None = None
"""Where `info` writes its JSON lines; None: `info` uses structlog like every other line."""

_queued: QueuedStream | None = None
"""The queue in front of a pipe, socket or terminal; None for a file."""

_limits: dict[tuple[str, str], tuple[float, float, int]] = {}
"""State of `limited` by (logger, event): lines that may be written now, the time of that count, lines left out."""

_logger = functools.cache(logging.getLogger)

_waiting: list[bytes] = []
_turning: asyncio.AbstractEventLoop | None = None
"""The event loop that writes the waiting lines at the end of its turn."""


def info(logger: str, event: str, **fields: object) -> None:
    """Write one info line. On an event loop, all lines of a turn are written together at its end.

    This is the fast path for very frequent lines; their form is the same. A line per socket costs about 3 microseconds
    instead of 25 and a system call, which was a quarter of the cost of a connection.
    """
    if _lines is None:
        structlog.get_logger(logger).info(event, **fields)
        return
    if not _logger(logger).isEnabledFor(logging.INFO):
        return
    line = {**fields, "event": event, "level": "info", "logger": logger, "timestamp": datetime.now(UTC)}
    _waiting.append(orjson.dumps(line, default=repr, option=orjson.OPT_UTC_Z))
    global _turning
    if _turning is not None and _turning.is_running():
        return
    try:
        _turning = asyncio.get_running_loop()  # costs a system call (a check for forks), so once per turn
    except RuntimeError:
        _write_waiting()
    else:
        _turning.call_soon(_write_waiting)


def _write_waiting() -> None:
    global _turning
    _turning = None
    lines = b"\n".join([*_waiting, b""])
    _waiting.clear()
    if _lines is not None:
        _lines.write(lines.decode())
        _lines.flush()


def limited(logger: str, event: str, *, level: Literal["warning", "error"] = "warning", **fields: object) -> None:
    """Write a line for an event that clients can cause at will: LIMITED_BURST at once, then one per LIMITED_EVERY_S.

    The field `left_out` is the number of lines that were not written since the last one.

    Args:
        logger: the logger's name.
        event: a constant; each pair of logger and event has its own limit.
        level: the line's level.
        fields: further fields of the line.
    """
    now, key = time.monotonic(), (logger, event)
    credit, at, left_out = _limits.get(key, (float(LIMITED_BURST), now, 0))
    credit = min(LIMITED_BURST, credit + (now - at) / LIMITED_EVERY_S)
    if credit < 1:
        _limits[key] = credit, now, left_out + 1
        return
    _limits[key] = credit - 1, now, 0
    write = getattr(structlog.get_logger(logger), level)
    write(event, **fields, **({"left_out": left_out} if left_out else {}))


def dropped() -> int:
    """Return the number of lines dropped because the log was not read."""
    return 0 if _queued is None else _queued.dropped


def _unblocked(stream: IO[str]) -> IO[str]:
    """Return a queue for `stream`, or `stream` itself if it is a file or has no descriptor."""
    global _queued
    try:
        descriptor = stream.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return stream
    except (OSError, ValueError):
        return stream
    if _queued is None or _queued.fileno() != descriptor:
        _queued = QueuedStream(stream)
        atexit.register(_queued.finish, FINISH_S)
    return cast("IO[str]", _queued)


def configure(level: Level = "info", form: Form = "json", stream: IO[str] | None = None) -> None:
    """Write every log line of `level` and above to `stream` (default: standard error). May be called again.

    Writing never blocks: see `QueuedStream`.
    """
    global _lines
    _limits.clear()
    stream = _unblocked(sys.stderr if stream is None else stream)
    _lines = stream if form == "json" else None
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks have no local variables: they may contain tokens and states.
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    ending: list[Processor] = (
        [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
        if form == "json"
        else [
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
            lambda logger, name, line: plain_lines(str(line)),  # it may contain a browser's or a provider's text
        ]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # Not cached: a logger made before this call must follow it.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(least, root.level))
