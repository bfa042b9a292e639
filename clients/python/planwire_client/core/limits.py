"""Limits of publishes and frames. A gateway's settings may lower some of them for its callers. Pure."""

from __future__ import annotations

SAFE_INTEGER_MAX = 2**53 - 1
"""The largest integer that browsers read exactly, because they read every number as a double."""

VERSION_MAX = SAFE_INTEGER_MAX
"""The largest version. Versions are microseconds since 1970, and browsers must read them exactly."""

STATE_MAX_BYTES = 32_768
"""Maximum bytes of a state's canonical JSON; the same again for its private part."""

STATE_MAX_DEPTH = 32
"""Maximum nesting of objects and arrays in a state."""

EVENT_ID_MAX = 512
"""Maximum characters of an event id."""

ORDER_MAX = 128
"""Maximum characters of a textual order value."""

ORDER_INTEGER_MAX = 2**64 - 1
"""The largest integer order value. It has 20 digits, the length to which order tokens are padded."""

TOPICS_PER_SOCKET = 64
"""Maximum topics of one WebSocket."""

CLIENT_MAX_CHARS = 80
"""Maximum characters of a client's name; longer names are cut."""

REASON_MAX_CHARS = 200
"""Maximum characters of the reason in a nack; longer reasons are cut."""

TIMEOUT_MAX_MS = 120_000
"""Maximum time of an `expect`, in milliseconds."""
