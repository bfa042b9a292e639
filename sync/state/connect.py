"""Opens the store from its URL, and tells where its bus is. Knows nothing of what is read or written there."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, Sentinel
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sync.errors import SyncError
from sync.state.store import Store, StoreError

SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
RETRIES = 2
CONNECTIONS_MAX = 64


class StoreUrlError(SyncError, ValueError):
    """The store's URL cannot be used; the text says what is wrong with it and never shows its password."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server that carries announcements: a unix socket `path`, or `host` and `port`."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Connected:
    """An open store, and `endpoint`: asked before every bus connection, since a failover moves it.

    `endpoint` raises StoreError while no server is known.
    """

    store: Store
    endpoint: Callable[[], Awaitable[Endpoint]]


def connect(url: str, *, durable: bool = False) -> Connected:
    """Return the store at `url`; connections are made on first use.

    `redis://`, `rediss://` and `unix://` as redis-py reads them;
    `redis+sentinel://[user:password@]host:port[,host:port...]/SERVICE[?db=N]` for Sentinel.

    Raises:
        StoreUrlError: the URL has another scheme or lacks a part.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("redis", "rediss", "unix"):
        return _direct(url, durable)
    if scheme == "redis+sentinel":
        return _sentinel(url, durable)
    raise StoreUrlError(f"store URL scheme {scheme!r} is not known: use redis, rediss, unix or redis+sentinel")


def _options() -> dict[str, Any]:
    # redis-py's own default is ten attempts, which stalls a call on a dead server for seconds.
    return {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(ExponentialWithJitterBackoff(cap=0.2, base=0.02), RETRIES),
        "retry_on_error": [RedisConnectionError, RedisTimeoutError],
        "health_check_interval": 0,
    }


def _direct(url: str, durable: bool) -> Connected:
    try:
        parts: dict[str, Any] = dict(parse_url(url))
    except ValueError as error:
        raise StoreUrlError(f"store URL: {error}") from error
    endpoint = Endpoint(
        host=parts.get("host") or "127.0.0.1",
        port=parts.get("port") or 6379,
        path=parts.get("path"),
        username=parts.get("username"),
        password=parts.get("password"),
        tls=_tls(parts) if url.startswith("rediss:") else None,
    )

    async def where() -> Endpoint:
        return endpoint

    redis = Redis.from_url(url, max_connections=CONNECTIONS_MAX, **_options())
    return Connected(Store(redis, durable=durable), where)


def _tls(parts: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=parts.get("ssl_ca_certs"))
    if parts.get("ssl_certfile"):
        context.load_cert_chain(parts["ssl_certfile"], parts.get("ssl_keyfile"))
    if str(parts.get("ssl_check_hostname", True)).lower() in ("false", "0"):
        context.check_hostname = False
    if parts.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _sentinel(url: str, durable: bool) -> Connected:
    split = urlsplit(url)
    service = split.path.strip("/")
    hosts = split.netloc.rpartition("@")[2]
    if not service or not hosts:
        raise StoreUrlError("a sentinel URL is redis+sentinel://host:port[,host:port...]/SERVICE")
    addresses = []
    for item in hosts.split(","):
        host, _, port = item.rpartition(":") if ":" in item else (item, "", "26379")
        if not host or not port.isdigit():
            raise StoreUrlError(f"sentinel address {item!r} is not host:port")
        addresses.append((host, int(port)))
    userinfo = split.netloc.rpartition("@")[0]
    name, _, secret = userinfo.partition(":")
    username, password = unquote(name) or None, unquote(secret) or None
    query = dict(parse_qsl(split.query))
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        addresses, socket_timeout=CONNECT_TIMEOUT_S, socket_connect_timeout=CONNECT_TIMEOUT_S
    )
    redis = sentinel.master_for(
        service, db=int(query.get("db", "0")), username=username, password=password, **_options()
    )

    async def where() -> Endpoint:
        try:
            host, port = await sentinel.discover_master(service)
        except (RedisError, OSError) as error:
            raise StoreError(f"sentinel: {error}") from error
        return Endpoint(host=str(host), port=int(port), username=username, password=password)

    return Connected(Store(redis, durable=durable), where)
