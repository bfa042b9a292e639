"""The environment as every process reads it: only known names, values without blanks at their ends. Pure.

Kubernetes adds variables of its own to every container of a namespace, and those of a Service whose name begins with
`planwire` have our prefix. They are recognised by name and form, and left out.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable, Mapping

from sync.core.errors import SyncError

PREFIX = "PLANWIRE_"

TOLERANT = "X_"
"""May stand before the name of a setting. A build that does not know the setting ignores such a name, also one from
before the setting existed; without the X_ it would be an unknown setting, and an error."""

SYNC_NAMES = frozenset(
    PREFIX + name
    for name in (
        "REDIS_URL",
        "PREFIX",
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
        "ALIVE_FILE",
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
        "PREFIX",
        "DATA_DIR",
        "ALLOWED_ORIGINS",
        "TRUSTED_PROXIES",
        "INTAKE",
        "DURABLE",
        "DEV",
        "DEV_INSECURE_HOST",
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
        "PUBLISH_RIGHTS",
        "PUBLISH_KEY",
        "CONSOLE_TOKEN",
        "METRICS_TOKEN",
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
        "TOKEN_LEEWAY_S",
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

UNPREFIXED_NAMES = frozenset(("PORT", "WEB_CONCURRENCY"))
"""What is read under the names that platforms give it."""


class SettingNameError(SyncError):
    """The environment gives a setting under a name that cannot be used; `name` is the setting's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class UnknownSettingError(SettingNameError):
    """The environment names a setting that does not exist; `name` is it, `closest` the likeliest meant, or None."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.closest = next(iter(difflib.get_close_matches(name, sorted(NAMES), n=1)), None)

    def __str__(self) -> str:
        hint = f"; did you mean {self.closest}?" if self.closest else ""
        return f"unknown setting {self.name}{hint}"


class SetTwiceError(SettingNameError):
    """A setting has two values: under its own name, which `name` is, and under the tolerant one."""

    def __str__(self) -> str:
        return f"{self.name} and {TOLERANT}{self.name} have different values: set one of them"


_LINK_HOST = re.compile(PREFIX + r"(?:[A-Z0-9_]+_)?SERVICE_HOST")
_LINK_NUMBER = re.compile(
    PREFIX + r"(?:[A-Z0-9_]+_)?(?:SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT)"
)
_LINK_URL = re.compile(PREFIX + r"(?:[A-Z0-9_]+_)?PORT(?:_[0-9]+_(?:TCP|UDP|SCTP))?")
_LINK_PROTOCOL = re.compile(PREFIX + r"(?:[A-Z0-9_]+_)?PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO")
_LINK_ADDRESS = re.compile(PREFIX + r"(?:[A-Z0-9_]+_)?PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR")
_URL = re.compile(r"(?:tcp|udp|sctp)://(.+):([0-9]{1,5})")


def read(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with each setting of ours under its own name, no blanks or line ends around its value.

    Service links are left out, and tolerant names are replaced; those that stand for no setting of this build stay, and
    `ignored_names` lists them. A secret that comes from a file often ends in a line feed, which no setting means.

    Raises:
        UnknownSettingError: a `PLANWIRE_` name is no setting and no service link; the first one alphabetically.
        SetTwiceError: a setting has two different values.
    """
    found = {}
    for name in sorted(environ):
        value = environ[name]
        if name.startswith(PREFIX):
            if is_service_link(name, value):
                continue
            if name not in NAMES:
                raise UnknownSettingError(name)
        found[name] = value.strip() if name.startswith(PREFIX) or name in UNPREFIXED_NAMES else value
    for name in sorted(NAMES):
        value = found.pop(TOLERANT + name, "").strip()
        if value and found.get(name, "") not in ("", value):
            raise SetTwiceError(name)
        if value:
            found[name] = value
    return found


def ignored_names(environ: Iterable[str]) -> list[str]:
    """Return the tolerant names in `environ` that stand for no setting of this build."""
    tolerant = (name for name in environ if name.startswith(TOLERANT + PREFIX))
    return sorted(name for name in tolerant if name.removeprefix(TOLERANT) not in NAMES)


def value(environ: Mapping[str, str], name: str, default: str = "") -> str:
    """Return one variable's value without blanks and line ends around it; `default` where that leaves nothing."""
    return environ.get(name, "").strip() or default


def is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes (or Docker) has set this variable for a Service called `planwire` or `planwire-...`.

    Name and form of the value have to fit. A setting of ours whose name fits is taken for a link only by what no
    setting can be: `PROTOCOL://ADDRESS:PORT`.
    Source: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    value = value.strip()
    if _LINK_URL.fullmatch(name) and (match := _URL.fullmatch(value)):
        return _is_address(match[1].removeprefix("[").removesuffix("]")) and _is_port(match[2])
    if name in NAMES:
        return False
    return bool(
        (_LINK_HOST.fullmatch(name) and _is_address(value))
        or (_LINK_NUMBER.fullmatch(name) and _is_port(value))
        or (_LINK_PROTOCOL.fullmatch(name) and value in ("tcp", "udp", "sctp"))
        or (_LINK_ADDRESS.fullmatch(name) and _is_address(value))
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65_536
