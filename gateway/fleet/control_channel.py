"""The control channel: each message is parsed once and passed to the handler of its kind.

A message is a JSON object whose `op` names its kind. Kinds in use: `revoke`, `acks`, `ask`, `look`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import structlog

Handler = Callable[[Mapping[str, Any]], None]
"""Takes one message. The reader of the bus calls it, so it must return immediately."""

log = structlog.get_logger()


class ControlChannel:
    """Dispatches the messages of the control channel."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def on(self, op: str, handler: Handler) -> None:
        """Pass messages of the kind `op` to `handler`; a later handler of the same kind replaces it."""
        self._handlers[op] = handler

    def heard(self, payload: bytes) -> None:
        """Handle one message. Anything but a JSON object of a known kind is ignored; a failing handler is logged."""
        try:
            message = orjson.loads(payload)
        except orjson.JSONDecodeError:
            return
        op = message.get("op") if isinstance(message, dict) else None
        if not isinstance(op, str) or op not in self._handlers:
            return
        try:
            self._handlers[op](message)
        except Exception as error:
            # This runs in the reader of the bus: an error must not stop the delivery of all topics.
            log.error("control_message_failed", op=op, exc_info=error)
