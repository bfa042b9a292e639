"""The bounds of what is published and sent. A gateway's settings may lower some of them for its own callers. Pure."""

from __future__ import annotations

SAFE_INTEGER_MAX = 2**53 - 1
"""Browsers read every number as a double: beyond this they would read an integer as another one."""

VERSION_MAX = SAFE_INTEGER_MAX
"""Versions are microseconds since 1970, and a browser must read them exactly."""

STATE_MAX_BYTES = 32_768
"""Bytes of a state's canonical JSON; the private part has as many of its own."""

STATE_MAX_DEPTH = 32
"""How deep objects and arrays of a state may be nested."""

EVENT_ID_MAX = 512
"""Characters of an event id."""

ORDER_MAX = 128
"""Characters of an order value that is text."""

ORDER_INTEGER_MAX = 2**64 - 1
"""An order value that is an integer: 20 digits, which is what order tokens are padded to."""

TOPICS_PER_SOCKET = 64
"""Topics of one WebSocket."""

CLIENT_MAX_CHARS = 80
"""Characters of the name by which a client introduces itself; longer ones are cut."""

REASON_MAX_CHARS = 200
"""Characters of the reason in a nack; longer ones are cut."""

TIMEOUT_MAX_MS = 120_000
"""The longest that an `expect` may wait, in milliseconds."""
