"""One structured log for a process, ours and the libraries': JSON lines in production, text at a terminal.

Every process of both wings sets it up the same way, once, when it starts. It decides form and level only: what is never
logged - tokens, keys, signatures, states - is up to those who log.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import logging
import os
import stat
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, Literal, cast, get_args

import orjson
import structlog
from structlog.typing import Processor

from sync.core.errors import SyncError
from sync.core.plain_text import plain_lines
from sync.process import environment
from sync.process.queued_stream import QueuedStream

Level = Literal["debug", "info", "warning", "error"]
Form = Literal["json", "text"]
LEVELS: tuple[Level, ...] = get_args(Level)
FORMS: tuple[Form, ...] = get_args(Form)

LIBRARY_LEVELS = {
    "uvicorn.access": logging.WARNING,
    "httpx2": logging.WARNING,
    "sse_starlette": logging.WARNING,
    "null_logger": logging.CRITICAL,  # the Paddle SDK's name for its own; what it reports it raises, too
}
"""Libraries that would write a line per request or per event."""

FINISH_S = 2.0
"""Maximum time that a process waits at its end for its last log lines to be read."""

LIMITED_BURST, LIMITED_EVERY_S = 10, 10.0
"""Limit on the lines of an event that clients can cause at will: burst, and seconds per further line."""


class LogSettingError(SyncError):
    """The environment asks for a level or a form that there is not."""


def configure_from(environ: Mapping[str, str]) -> None:
    """Set the log up as `PLANWIRE_LOG_LEVEL` and `PLANWIRE_LOG_FORMAT` say: for a process that has no settings model.

    Raises:
        LogSettingError: one of them has another value than it may.
    """
    level = environment.value(environ, "PLANWIRE_LOG_LEVEL", "info")
    form = environment.value(environ, "PLANWIRE_LOG_FORMAT", "json")
    if level not in LEVELS:
        raise LogSettingError(f"PLANWIRE_LOG_LEVEL must be one of {', '.join(LEVELS)}")
    if form not in FORMS:
        raise LogSettingError(f"PLANWIRE_LOG_FORMAT must be one of {', '.join(FORMS)}")
    configure(level, form)


_lines: IO[str] | None = None
"""Where `info` writes its JSON lines; None: it goes the way of every other line."""

_queued: QueuedStream | None = None
"""The queue in front of a pipe, socket or terminal; None for a file."""

_limits: dict[tuple[str, str], _Limit] = {}
"""Limits of `limited`, by logger and event."""

_logger = functools.cache(logging.getLogger)

_waiting: list[bytes] = []
_turning: asyncio.AbstractEventLoop | None = None
"""The loop at the end of whose turn the waiting lines are written."""


def info(logger: str, event: str, **fields: object) -> None:
    """Write one info line, at once or, on an event loop, at the end of its turn, together with the turn's others.

    For what comes by the thousand: the form of all other lines without their detour. A line per socket costs some 3
    microseconds so instead of 25 and a system call, which was a quarter of what connecting costs.
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
        _turning = asyncio.get_running_loop()  # a system call: it makes sure that this is no fork
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
        event: a constant; each pair of logger and event has a limit of its own.
        level: the line's level.
        fields: further fields of the line.
    """
    limit = _limits.setdefault((logger, event), _Limit())
    left_out = limit.take(time.monotonic())
    if left_out is not None:
        write = getattr(structlog.get_logger(logger), level)
        write(event, **fields, **({"left_out": left_out} if left_out else {}))


class _Limit:
    """A token bucket for the lines of one event."""

    __slots__ = ("_at", "_credit", "_left_out")

    def __init__(self) -> None:
        self._credit, self._at, self._left_out = float(LIMITED_BURST), 0.0, 0

    def take(self, now: float) -> int | None:
        """Return the number of lines left out before this one, or None to leave this one out. `now`: monotonic."""
        self._credit = min(LIMITED_BURST, self._credit + (now - self._at) / LIMITED_EVERY_S)
        self._at = now
        if self._credit < 1:
            self._left_out += 1
            return None
        self._credit -= 1
        left_out, self._left_out = self._left_out, 0
        return left_out


def dropped() -> int:
    """Return the number of lines dropped because the log was not read."""
    return 0 if _queued is None else _queued.dropped


def _unblocked(stream: IO[str], form: Form) -> IO[str]:
    """Return a queue for `stream`, or `stream` itself if it is a file or has no descriptor."""
    global _queued
    try:
        descriptor = stream.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return stream
    except (OSError, ValueError):
        return stream
    if _queued is None or _queued.fileno() != descriptor:
        _queued = QueuedStream(stream, functools.partial(_drop_notice, form))
        atexit.register(_queued.finish, FINISH_S)
    _queued.notice = functools.partial(_drop_notice, form)
    return cast("IO[str]", _queued)


def _drop_notice(form: Form, count: int) -> str:
    at = datetime.now(UTC)
    reason = "the log was not read"
    if form == "text":
        return f"{at:%Y-%m-%dT%H:%M:%S.%fZ} [warning  ] log_lines_dropped count={count} reason={reason!r}\n"
    line = {"count": count, "reason": reason, "event": "log_lines_dropped", "level": "warning", "logger": __name__}
    return orjson.dumps({**line, "timestamp": at}, option=orjson.OPT_UTC_Z).decode() + "\n"


def configure(
    level: Level = "info",
    form: Form = "json",
    stream: IO[str] | None = None,
) -> None:
    """Write every log line of `level` and above to `stream` (default: standard error). May be called again.

    Writing never blocks: see `QueuedStream`.
    """
    global _lines
    _limits.clear()
    stream = _unblocked(sys.stderr if stream is None else stream, form)
    _lines = stream if form == "json" else None
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Local variables stay out of tracebacks: they hold tokens and states.
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    ending: list[Processor] = (
        [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
        if form == "json"
        else [
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
            lambda logger, name, line: plain_lines(str(line)),  # what a browser or a provider said may be in it
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
    for name in ("uvicorn", "uvicorn.error"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.NOTSET)
        library.disabled = False
