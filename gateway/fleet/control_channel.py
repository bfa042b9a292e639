"""The control channel: each message is parsed once and handed to the handler of its kind.

A message is a JSON object whose `op` names its kind. Kinds in use: `revoke`, `acks`, `ask`, `look`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import structlog

Handler = Callable[[Mapping[str, Any]], None]
"""Takes one message. Called by the reader of the bus: it returns at once."""

log = structlog.get_logger()


class ControlChannel:
    """Dispatches what arrives on the control channel."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def on(self, op: str, handler: Handler) -> None:
        """Hand messages of the kind `op` to `handler`; a later handler of the same kind replaces it."""
        self._handlers[op] = handler

    def heard(self, payload: bytes) -> None:
        """Handle one message. What is not a JSON object of a known kind is ignored; a failing handler is logged."""
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
            # This runs in the reader of the bus, which delivers every topic.
            log.error("control_message_failed", op=op, exc_info=error)
