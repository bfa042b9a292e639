"""One structured log for the process, ours and the libraries': JSON lines in production, text at a terminal.

It decides form and level only. What is never logged - tokens, keys, signatures, states - is up to those who log.
"""

from __future__ import annotations

import logging
import sys
from typing import IO, Literal

import structlog
from structlog.typing import Processor

LIBRARY_LEVELS = {"uvicorn.access": logging.WARNING, "httpx2": logging.WARNING, "sse_starlette": logging.WARNING}
"""Libraries that would write a line per request or per event."""


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info",
    form: Literal["json", "text"] = "json",
    stream: IO[str] | None = None,
) -> None:
    """Write every log line of `level` and above to `stream` (default: standard error). May be called again."""
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
        else [structlog.dev.ConsoleRenderer(colors=False)]
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
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
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
