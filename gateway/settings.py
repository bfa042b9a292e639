"""The gateway's settings: addresses, secrets and limits. They are read and validated once, and passed down."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from gateway.auth import addresses, origins
from gateway.auth.addresses import Network, parse_network
from gateway.auth.origins import LOOPBACK_HOSTS
from gateway.auth.publish_keys import KEY_NAME, Grant, parse_grants
from gateway.console import scopes
from gateway.errors import GatewayError
from sync.process import settings
from sync.process.environment import PREFIX
from sync.process.settings import StoreSettings

SECRET_MIN_BYTES = 32
"""The shortest HS256 secret that is accepted (RFC 7518 section 3.2: at least the size of the hash)."""

ASYMMETRIC_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Algorithms that a key of a JWKS may be pinned to."""

_BEARER = re.compile(rf"[A-Za-z0-9._~+/=-]{{{SECRET_MIN_BYTES},512}}")
_LOOPBACK_PAGE = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?")
_PUBLISH_KEY = re.compile(rf"({KEY_NAME}):([0-9a-f]{{64}})(?::([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?))?")


class SettingsError(GatewayError, settings.SettingsError):
    """The environment is not a valid configuration. `problems`: one sentence each, without secrets."""


PublishKeySetting = tuple[str, str, float | None]
"""One entry of `PUBLISH_KEYS`: name, SHA-256 of the key in hex, requests per second (None: the default rate)."""


def _items(text: str) -> list[str]:
    """Return the comma separated items, stripped, without empty ones."""
    return [item for part in text.split(",") if (item := part.strip())]


def _each(parse: Callable[[str], object]) -> BeforeValidator:
    """Return the validator of a comma separated list; `parse` reads one item."""
    return BeforeValidator(lambda text: tuple(map(parse, _items(text))))


def _secret(text: str) -> SecretStr:
    if len(text.encode()) < SECRET_MIN_BYTES:
        raise ValueError(f"a secret has at least {SECRET_MIN_BYTES} bytes (several are comma separated)")
    return SecretStr(text)


def _publish_key(text: str) -> PublishKeySetting:
    match = _PUBLISH_KEY.fullmatch(text)
    if match is None:
        raise ValueError("an entry is name:SHA256HEX or name:SHA256HEX:RATE_PER_S, the hash in lower case")
    name, digest, rate = match.groups()
    if rate is not None and float(rate) <= 0:
        raise ValueError(f"the rate of {name} must be above 0")
    return name, digest, None if rate is None else float(rate)


def _distinct(keys: tuple[PublishKeySetting, ...]) -> tuple[PublishKeySetting, ...]:
    for member in (0, 1):
        if len({key[member] for key in keys}) != len(keys):
            raise ValueError("names and keys must differ from each other")
    return keys


def _jwks(text: str) -> str:
    if "://" in text:
        split = urlsplit(text)
        if split.scheme != "https" and not (split.scheme == "http" and split.hostname in LOOPBACK_HOSTS):
            raise ValueError("a key set is fetched by https, or by http from a loopback host only")
    return text


def _algorithm(text: str) -> str:
    if text not in ASYMMETRIC_ALGORITHMS:
        raise ValueError(f"{text!r} is not one of {', '.join(ASYMMETRIC_ALGORITHMS)}")
    return text


def _metrics_token(text: str) -> str:
    if text and not _BEARER.fullmatch(text):
        raise ValueError(f"must be {SECRET_MIN_BYTES} to 512 characters, each a letter, a digit or one of -._~+/=")
    return text


def _console_tokens(text: str) -> str:
    scopes.parse(text)
    return text


class GatewaySettings(StoreSettings):
    """The gateway's configuration, frozen. `port` is read from `PORT`, every other field `x` from `PLANWIRE_X`."""

    model_config = ConfigDict(validate_default=False)  # the validators expect text from the environment
    error = SettingsError

    # Addresses and switches
    port: int = Field(8000, ge=0, le=65535, description="TCP port of the web process, from PORT. 0: the system picks.")
    host: str = Field("127.0.0.1", description="Address to listen on. 0.0.0.0: all of the machine's.")
    allowed_origins: Annotated[tuple[str, ...], _each(origins.parse)] = Field(
        (),
        description="Exact origins whose pages may connect, comma separated: https://app.example.com,"
        " capacitor://localhost, chrome-extension://ID. No wildcards.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], _each(parse_network)] = Field(
        (), description="Addresses or networks whose X-Forwarded-For is believed, comma separated. Default: none."
    )
    intake: bool = Field(True, description="Whether this web process takes webhooks too. 0: another one does.")
    dev: bool = Field(False, description="Set by the development runner only: loopback origins allowed, /demo served.")
    dev_insecure_host: bool = Field(
        False,
        description="INSECURE. 1: development mode may listen where other machines reach it. The demo and a console"
        " without login stay with requests of this machine that nobody passed on.",
    )
    source_url: str = Field("", description="Your backend, which the worker asks about a topic without state.")
    simulator_url: str = Field("", description="Base URL of the local provider that the demo talks to. Dev only.")

    # Secrets
    jwt_secret: Annotated[tuple[SecretStr, ...], _each(_secret)] = Field(
        (), description="HS256 secrets, each >= 32 bytes, comma separated for rotation; the first one mints."
    )
    jwks: Annotated[str, AfterValidator(_jwks)] = Field(
        "", description="Key set for RS/PS/ES/EdDSA tokens: a file's path, or an https URL (http on loopback only)."
    )
    jwt_algorithms: Annotated[tuple[str, ...], _each(_algorithm)] = Field(
        ("RS256", "ES256", "EdDSA"), description="Algorithms that keys of the key set may be pinned to."
    )
    jwt_audience: str = Field("", description="Tokens must have this audience. Empty: tokens with one are refused.")
    jwt_issuer: str = Field("", description="Tokens must have this issuer. Empty: any.")
    publish_keys: Annotated[tuple[PublishKeySetting, ...], _each(_publish_key), AfterValidator(_distinct)] = Field(
        (), repr=False, description="name:SHA256HEX[:RATE_PER_S] of each publish key, comma separated."
    )
    publish_rights: Annotated[tuple[Grant, ...], BeforeValidator(lambda text: parse_grants(_items(text)))] = Field(
        (),
        description="NAME:SCOPE[+SCOPE]:PATTERN, comma separated: what each publish key may do. Scopes: publish,"
        " tenants (billing's routes), admin (erase, override, revoke). Patterns: tenant:acme, prefs:*,"
        " sandbox/tenant:*, *. A key without an entry may do everything, in this release for the last time. Write it"
        " X_PLANWIRE_PUBLISH_RIGHTS while an older build may start with the same environment.",
    )
    console_token: Annotated[SecretStr, BeforeValidator(_console_tokens)] = Field(
        SecretStr(""),
        description="Opens /console; at least 32 random characters. Several are comma separated, with scopes:"
        " read:TOKEN,admin:TOKEN,admin+private:TOKEN; a TOKEN alone has all. Empty: no console outside dev.",
    )
    metrics_token: Annotated[SecretStr, BeforeValidator(_metrics_token)] = Field(
        SecretStr(""),
        description="Opens /metrics, as a bearer token; at least 32 random characters. Empty: /metrics answers loopback"
        " and private addresses, and nothing that came through a proxy.",
    )

    # Limits of a socket
    frame_max_bytes: int = Field(65_536, ge=1024, description="Largest frame a browser may send; beyond: close 4513.")
    topics_per_socket: int = Field(64, ge=1, le=64, description="Topics that one socket may hold.")
    sockets_per_subject: int = Field(64, ge=1, description="Open sockets per token subject and process.")
    sockets_per_address: int = Field(1000, ge=1, description="Open sockets per client address and process.")
    sockets_max: int = Field(50_000, ge=1, description="Open sockets per process; beyond: 503 with Retry-After.")
    hello_timeout_s: float = Field(5, gt=0, description="Seconds a socket has to send hello; then close 4501.")
    frames_per_s: int = Field(
        50, ge=1, description="Frames a second from one socket, twice as many at once; then 4529."
    )
    send_timeout_s: float = Field(10, gt=0, description="Seconds without progress until a slow socket is closed 4008.")
    send_buffer_bytes: int = Field(65_536, ge=4096, description="Kernel send buffer of a socket (SO_SNDBUF).")
    ack_after_ms: int = Field(250, ge=0, description="Jitter window advised to browsers before they ack.")
    acks_per_s: int = Field(
        2000, ge=1, description="Acks a second wanted per process; the more topics are held here, the later they come."
    )
    acks_per_topic: int = Field(100, ge=1, description="Acks wanted per topic and version; the share follows from it.")

    # Freshness
    heartbeat_s: float = Field(
        15, gt=0, description="Seconds between heartbeats to a socket; to an event stream at most 15."
    )
    probe_s: float = Field(2, gt=0, description="Seconds between bus probes; stale after two intervals without one.")
    sweep_s: float = Field(5, gt=0, description="Seconds between re-reads of all live topics' versions, jittered.")

    # Life cycle
    drain_s: float = Field(10, ge=0, description="Seconds over which a stopping process spreads its closes.")
    reconnect_min_ms: int = Field(500, ge=0, description="Lower bound of a browser's back-off.")
    reconnect_max_ms: int = Field(
        30_000,
        ge=1,
        description="Upper bound of a browser's back-off. Less below as many sockets: 1 ms each, from 5 s.",
    )
    ready_timeout_s: float = Field(1, gt=0, description="Seconds /readyz waits for the store's answer.")

    # Limits of HTTP
    state_max_bytes: int = Field(
        32_768, ge=256, description="Largest state, and largest private part, as compact JSON."
    )
    state_max_depth: int = Field(32, ge=1, le=100, description="Deepest nesting of objects and arrays in a state.")
    body_max_bytes: int = Field(65_536, ge=1024, description="Largest request body; beyond: 413.")
    batch_max_bytes: int = Field(4_194_304, ge=1024, description="Largest body of POST /v1/publish/batch.")
    batch_max_items: int = Field(500, ge=1, description="Publishes in one batch.")
    body_timeout_s: float = Field(10, gt=0, description="Seconds a request has to send its whole body; then 408.")
    publish_rate_per_s: float = Field(10_000, gt=0, description="Publishes a second of a key without its own rate.")
    connections_max: int = Field(
        4096, ge=1, description="Open HTTP connections per process; a new socket counts until its hello."
    )
    connections_per_address: int = Field(
        2000, ge=1, description="The same per address of the TCP peer; trusted proxies are exempt."
    )
    keep_alive_s: float = Field(
        75, gt=0, description="Seconds an HTTP connection may be idle; must be longer than the proxy in front keeps it."
    )
    reads_per_s: float = Field(
        100,
        gt=0,
        description="Reads a second per token subject, or per address on routes without a token;"
        " five times as many at once. Beyond: 429.",
    )
    wait_max_ms: int = Field(30_000, ge=0, description="Longest wait of GET /v1/state; a longer wait_ms is cut to it.")
    streams_max: int = Field(2000, ge=1, description="Open event streams and waiting reads per process.")
    streams_per_subject: int = Field(32, ge=1, description="Open event streams and waiting reads per token subject.")

    # Tokens and revocation
    token_max_bytes: int = Field(8192, ge=512, description="Longest token.")
    token_max_ttl_s: int = Field(
        2_592_000, ge=60, description="Farthest expiry a token may have; revocations are kept as long."
    )
    token_leeway_s: float = Field(
        30,
        ge=0,
        le=300,
        description="How far the issuer's clock may be from ours: for nbf and iat ahead of it, for exp behind it.",
    )
    token_cache: int = Field(4096, ge=0, description="Verified tokens remembered per process.")
    revocations_max: int = Field(
        100_000, ge=1, description="Maximum stored revocations. Beyond it the oldest are merged into one cut-off time."
    )
    jwks_refresh_s: float = Field(300, gt=0, description="Seconds between regular fetches of a key set URL.")
    jwks_retry_s: float = Field(10, gt=0, description="Least seconds between fetches that an unknown key id causes.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        names = {name for name, *_ in self.publish_keys}
        for grant in self.publish_rights:
            if grant.key not in names:
                raise ValueError(f"{PREFIX}PUBLISH_RIGHTS names {grant.key}, which is no key of {PREFIX}PUBLISH_KEYS")
        if not self.jwt_secret and not self.jwks:
            raise ValueError(f"{PREFIX}JWT_SECRET or {PREFIX}JWKS must be set: without either no token can be verified")
        is_loopback = self.host == "localhost" or addresses.is_loopback(self.host)
        if self.dev and not is_loopback and not self.dev_insecure_host:
            raise ValueError(
                f"{PREFIX}DEV: development mode is for loopback, and {PREFIX}HOST is {self.host}: leave {PREFIX}DEV "
                f"out, listen on 127.0.0.1, or set {PREFIX}DEV_INSECURE_HOST=1 to let other machines in"
            )
        for token in scopes.parse(self.console_token.get_secret_value()):
            if not self.dev and len(token.text.decode()) < scopes.TOKEN_MIN:
                raise ValueError(
                    f"{PREFIX}CONSOLE_TOKEN: a token has at least {scopes.TOKEN_MIN} characters; "
                    "`openssl rand -base64 32` prints a good one"
                )
        if self.reconnect_min_ms > self.reconnect_max_ms:
            raise ValueError(f"{PREFIX}RECONNECT_MIN_MS is above {PREFIX}RECONNECT_MAX_MS")
        return self

    @property
    def revocation_keep_s(self) -> float:
        """Seconds for which a revocation is kept: the longest time that a revoked token could stay valid."""
        return self.token_max_ttl_s + 2 * self.token_leeway_s

    def origin_allowed(self, origin: str) -> bool:
        """Whether a page of `origin` (the Origin header) may connect. In dev every loopback origin may, too."""
        origin = origin.lower()
        return origin in self.allowed_origins or (self.dev and _LOOPBACK_PAGE.fullmatch(origin) is not None)


SECTIONS = {
    "redis_url": "Store and process",
    "port": "Addresses and switches",
    "jwt_secret": "Secrets",
    "frame_max_bytes": "Limits of a socket",
    "heartbeat_s": "Freshness",
    "drain_s": "Life cycle",
    "state_max_bytes": "Limits of HTTP",
    "token_max_bytes": "Tokens and revocation",
}
"""First field of each group of `GatewaySettings` -> the group's heading."""
