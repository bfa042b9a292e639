"""The names of all settings, so that a misspelt one is an error instead of a silent default. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from sync.errors import SyncError

PREFIX = "PLANWIRE_"

SYNC_NAMES = frozenset(
    PREFIX + name
    for name in (
        "REDIS_URL",
        "DATA_DIR",
        "DURABLE",
        "DEV",
        "CATALOG",
        "INTAKE",
        "PADDLE_SECRETS",
        "PADDLE_API_KEYS",
        "PADDLE_API_URL",
        "PADDLE_API_RATE_PER_S",
        "PADDLE_TOLERANCE_S",
        "STRIPE_SECRETS",
        "STRIPE_API_KEYS",
        "STRIPE_API_URL",
        "STRIPE_API_RATE_PER_S",
        "STRIPE_TOLERANCE_S",
        "SOURCE_URL",
        "SOURCE_SECRET",
        "SOURCE_RATE_PER_S",
        "SOURCE_TIMEOUT_S",
        "SIMULATOR_URL",
        "WEBHOOK_URL",
        "WATCH_PID",
        "LOG_LEVEL",
        "LOG_FORMAT",
    )
)
"""What `sync` reads."""

GATEWAY_NAMES = frozenset(
    PREFIX + name
    for name in (
        "HOST",
        "REDIS_URL",
        "DATA_DIR",
        "ALLOWED_ORIGINS",
        "TRUSTED_PROXIES",
        "INTAKE",
        "DURABLE",
        "DEV",
        "SOURCE_URL",
        "SIMULATOR_URL",
        "WATCH_PID",
        "LOG_LEVEL",
        "LOG_FORMAT",
        "JWT_SECRET",
        "JWKS",
        "JWT_ALGORITHMS",
        "JWT_AUDIENCE",
        "JWT_ISSUER",
        "PUBLISH_KEYS",
        "PUBLISH_KEY",
        "CONSOLE_TOKEN",
        "FRAME_MAX_BYTES",
        "TOPICS_PER_SOCKET",
        "SOCKETS_PER_SUBJECT",
        "SOCKETS_PER_ADDRESS",
        "SOCKETS_MAX",
        "HELLO_TIMEOUT_S",
        "FRAMES_PER_S",
        "SEND_TIMEOUT_S",
        "SEND_BUFFER_BYTES",
        "ACK_AFTER_MS",
        "ACKS_PER_S",
        "ACKS_PER_TOPIC",
        "HEARTBEAT_S",
        "PROBE_S",
        "SWEEP_S",
        "DRAIN_S",
        "RECONNECT_MIN_MS",
        "RECONNECT_MAX_MS",
        "READY_TIMEOUT_S",
        "STATE_MAX_BYTES",
        "STATE_MAX_DEPTH",
        "BODY_MAX_BYTES",
        "BATCH_MAX_BYTES",
        "BATCH_MAX_ITEMS",
        "BODY_TIMEOUT_S",
        "PUBLISH_RATE_PER_S",
        "CONNECTIONS_MAX",
        "CONNECTIONS_PER_ADDRESS",
        "KEEP_ALIVE_S",
        "READS_PER_S",
        "WAIT_MAX_MS",
        "STREAMS_MAX",
        "STREAMS_PER_SUBJECT",
        "TOKEN_MAX_BYTES",
        "TOKEN_MAX_TTL_S",
        "TOKEN_CACHE",
        "REVOCATIONS_MAX",
        "JWKS_REFRESH_S",
        "JWKS_RETRY_S",
    )
)
"""What `gateway` reads. It stands here because every process shares one environment and must know all of it."""

OUTBOX_URL = PREFIX + "OUTBOX_URL"
"""The applications' PostgreSQL; read by the outbox relay alone."""

NAMES = SYNC_NAMES | GATEWAY_NAMES | {OUTBOX_URL}


class UnknownSettingError(SyncError):
    """The environment names a setting that does not exist; `name` is it, `closest` the likeliest meant, or None."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
        self.closest = next(iter(difflib.get_close_matches(name, sorted(NAMES), n=1)), None)

    def __str__(self) -> str:
        hint = f"; did you mean {self.closest}?" if self.closest else ""
        return f"unknown setting {self.name}{hint}"


def check_names(environ: Iterable[str]) -> None:
    """Return when every `PLANWIRE_` name in `environ` is a setting.

    Raises:
        UnknownSettingError: the first, alphabetically, that is not.
    """
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in NAMES:
            raise UnknownSettingError(name)
