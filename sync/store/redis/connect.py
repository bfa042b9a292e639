"""Opens the store of a URL: one server, Sentinel or Cluster; and the bus of its announcements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import Redis, Sentinel
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from planwire_client.core.commit import DEFAULT_PREFIX, PrefixError, check_prefix
from sync.store.keys import Keys
from sync.store.models import StoreError
from sync.store.redis.cluster import NODE_TIMEOUT_S, Cluster
from sync.store.redis.cluster_commands import ClusterRedis
from sync.store.redis.pubsub import Bus, Endpoint, SingleServerPubSub
from sync.store.redis.retry import CancelSafeRetry, renewing
from sync.store.redis.slots import Layout, address
from sync.store.redis.urls import (
    FORMS,
    SENTINEL_PORT,
    SERVER_PORT,
    ServerList,
    StoreUrlError,
    parse_servers,
    tls_context,
)
from sync.store.store import Store

SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
RETRIES = 2
CONNECTIONS_MAX = 64


@dataclass(frozen=True, slots=True)
class Connected:
    """An open store and its bus."""

    store: Store
    bus: Bus


def connect(url: str, *, prefix: str = DEFAULT_PREFIX, durable: bool = False) -> Connected:
    """Return the store at `url`, with names that begin with `prefix`; connections are made on first use.

    `redis://`, `rediss://` and `unix://` as redis-py reads them. With TLS (`rediss`, `rediss+...`) the query may name
    `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs=none` and `ssl_check_hostname=false`.
    `redis+sentinel://[user:password@]host:port[,host:port...]/SERVICE[?db=N]`: user and password are the servers';
    `sentinel_username` and `sentinel_password` in the query are the Sentinels' own.
    `redis+cluster://[user:password@]host:port[,host:port...]`: any nodes of a Cluster; one has to answer.

    Raises:
        StoreUrlError: the URL has another scheme or lacks a part, or names a certificate that cannot be read.
        PrefixError: `prefix` cannot be one.
    """
    if "://" not in url:
        # The text is not shown: it may contain a password.
        raise StoreUrlError(f"it has no scheme; write redis://HOST:PORT/0, or another of {FORMS}")
    try:
        scheme = urlsplit(url).scheme
        for known, build in _BUILDERS.items():
            if scheme in known:
                return build(url, check_prefix(prefix), durable)
    except (StoreUrlError, PrefixError):
        raise
    except (OSError, ValueError) as error:
        raise StoreUrlError(str(error)) from error
    raise StoreUrlError(f"the scheme {scheme!r} is not known: use {FORMS}")


def _timeouts(socket_timeout_s: float | None = None) -> dict[str, Any]:
    # redis-py's default of ten attempts would stall a call on a dead server for seconds.
    return {
        "socket_timeout": SOCKET_TIMEOUT_S if socket_timeout_s is None else socket_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": CancelSafeRetry(ExponentialWithJitterBackoff(cap=0.2, base=0.02), RETRIES),
        "retry_on_error": [RedisConnectionError, RedisTimeoutError],
        "health_check_interval": 0,
    }


def _direct(url: str, prefix: str, durable: bool) -> Connected:
    split = urlsplit(url)
    if split.scheme != "unix" and not (split.path.strip("/") or "0").isdecimal():
        raise StoreUrlError(f"the database must be a number, as in {split.scheme}://HOST:PORT/0")
    if split.scheme == "unix" and not split.path:
        raise StoreUrlError("a unix URL is unix:///PATH/TO/SOCKET")
    parts: dict[str, Any] = dict(parse_url(url))
    endpoint = Endpoint(
        host=parts.get("host") or "127.0.0.1",
        port=parts.get("port") or SERVER_PORT,
        path=parts.get("path"),
        username=parts.get("username"),
        password=parts.get("password"),
        tls=tls_context(parts) if url.startswith("rediss:") else None,
    )

    async def where() -> Endpoint:
        return endpoint

    redis = Redis.from_url(url, max_connections=CONNECTIONS_MAX, **_timeouts())
    pool = redis.connection_pool
    try:
        pool.connection_class(**pool.connection_kwargs)  # an unknown option would fail on first use only
    except (TypeError, RedisError) as error:
        options = ", ".join(sorted(dict(parse_qsl(split.query))))
        raise StoreUrlError(f"an option ({options}) is not known, or has a wrong value: {error}") from error
    keys = Keys(prefix, int(parts.get("db", 0)))
    return Connected(Store(redis, keys, durable=durable), SingleServerPubSub(where, renewing(redis).listen))


def _sentinel(url: str, prefix: str, durable: bool) -> Connected:
    parts = parse_servers(url, SENTINEL_PORT, ("db", "sentinel_username", "sentinel_password"))
    if not parts.path or not parts.query.get("db", "0").isdigit():
        raise StoreUrlError("a sentinel URL is redis+sentinel://host:port[,host:port...]/SERVICE[?db=N]")
    database = int(parts.query.get("db", "0"))
    watching = {
        "socket_timeout": CONNECT_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": CancelSafeRetry(ExponentialWithJitterBackoff(cap=0.02, base=0.01), 1),
        "username": parts.query.get("sentinel_username"),
        "password": parts.query.get("sentinel_password"),
        **parts.tls_options,
    }
    sentinel = _Sentinels(parts.addresses, sentinel_kwargs=watching)  # type: ignore[no-untyped-call]
    redis = sentinel.master_for(
        parts.path,
        db=database,
        max_connections=CONNECTIONS_MAX,
        **parts.login,
        **parts.tls_options,
        **_timeouts(NODE_TIMEOUT_S),
    )

    async def where() -> Endpoint:
        try:
            host, port = await sentinel.discover_master(parts.path)
        except (RedisError, OSError) as error:
            raise StoreError(f"sentinel: {error}") from error
        return Endpoint(host=str(host), port=int(port), tls=parts.tls, **parts.login)

    store = _SentinelStore(redis, Keys(prefix, database), sentinel, durable=durable)
    return Connected(store, SingleServerPubSub(where, renewing(redis).listen))


class _Sentinels(Sentinel):
    """redis-py's Sentinel, with an error that says what is wrong with each."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return host and port of the primary from the first Sentinel that knows it; that one is asked first next time.

        Raises:
            redis.sentinel.MasterNotFoundError: no Sentinel knows it; one line says why.
        """
        reasons = []
        for index, watcher in enumerate(self.sentinels):
            told = watcher.connection_pool.connection_kwargs
            name = f"{told['host']}:{told['port']}"
            try:
                masters: Any = await watcher.sentinel_masters()
            except (RedisConnectionError, RedisTimeoutError) as error:
                reasons.append(f"{name}: {error}")
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):
                self.sentinels[0], self.sentinels[index] = watcher, self.sentinels[0]
                return state["ip"], state["port"]
            reasons.append(f"{name} {'says that it is down' if state else 'watches no such service'}")
        raise MasterNotFoundError(f"No master found for {service_name!r}: {'; '.join(reasons)}")


class _SentinelStore(Store):
    """A store that closes its connections to the Sentinels too."""

    def __init__(self, redis: Redis, keys: Keys, sentinel: Sentinel, *, durable: bool) -> None:
        super().__init__(redis, keys, durable=durable)
        self._sentinel = sentinel

    async def aclose(self) -> None:
        """Close every connection."""
        await super().aclose()
        for watcher in self._sentinel.sentinels:
            await watcher.aclose()


def _cluster(url: str, prefix: str, durable: bool) -> Connected:
    parts = parse_servers(url, SERVER_PORT, ())
    if parts.path not in ("", "0"):
        raise StoreUrlError("a cluster URL is redis+cluster://host:port[,host:port...]: a Cluster has one database")
    options = {"socket_connect_timeout": CONNECT_TIMEOUT_S, "max_connections": CONNECTIONS_MAX}
    cluster = Cluster(parts.addresses, {**options, **parts.login, **parts.tls_options})
    store = Store(ClusterRedis(cluster), Keys(prefix), durable=durable)
    return Connected(store, _ClusterBus(cluster, parts))


class _ClusterBus:
    """The bus of a Cluster: sharded pub/sub, with the layout of the commands."""

    is_sharded = True

    def __init__(self, cluster: Cluster, parts: ServerList) -> None:
        self._cluster = cluster
        self._parts = parts
        self.moved = cluster.moved
        self.listen = cluster.listen

    def listen_left(self, on_left: Callable[[], None]) -> None:
        pass  # a demoted server no longer owns slots, which the layout shows

    @property
    def layout(self) -> Layout | None:
        return self._cluster.layout

    async def refresh(self) -> Layout:
        try:
            return await self._cluster.refresh()
        except (RedisError, OSError) as error:
            raise StoreError(str(error)) from error

    async def endpoint(self, shard: str) -> Endpoint:
        host, port = address(shard)
        return Endpoint(host=host, port=port, tls=self._parts.tls, **self._parts.login)


_BUILDERS: Mapping[tuple[str, ...], Callable[[str, str, bool], Connected]] = {
    ("redis", "rediss", "unix"): _direct,
    ("redis+sentinel", "rediss+sentinel"): _sentinel,
    ("redis+cluster", "rediss+cluster"): _cluster,
}
