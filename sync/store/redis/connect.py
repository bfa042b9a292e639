"""Opens the store at a URL (one server, Sentinel or Cluster), and the bus of its announcements."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio import Redis, Sentinel
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError, RedisError, TimeoutError as RedisTimeoutError

from planwire_client.core.commit import DEFAULT_PREFIX, PrefixError, check_prefix
from sync.core.errors import SyncError
from sync.process.settings import StoreSettings
from sync.store.embedded import server
from sync.store.keys import Keys
from sync.store.models import StoreError
from sync.store.redis.cluster import NODE_TIMEOUT_S, Cluster
from sync.store.redis.cluster_commands import ClusterRedis
from sync.store.redis.pubsub import Bus, Endpoint
from sync.store.redis.retry import CancelSafeRetry, renewing
from sync.store.redis.slots import address, shard_name
from sync.store.store import Store

FORMS = (
    "redis://, rediss://, unix://, redis+sentinel://host:port,host:port/SERVICE, redis+cluster://host:port,host:port; "
    "rediss+sentinel:// and rediss+cluster:// with TLS"
)
"""The accepted forms of a store URL, for error texts."""

START_WAIT_S = 15.0
"""Time that another process has to start the embedded store; after it this process starts it."""

SENTINEL_PORT, SERVER_PORT = 26379, 6379

TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
"""Query options of a URL with TLS."""

SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
RETRIES = 2
CONNECTIONS_MAX = 64


class StoreUrlError(SyncError, ValueError):
    """PLANWIRE_REDIS_URL cannot be used. The text says why, and never shows the password."""

    def __str__(self) -> str:
        return f"PLANWIRE_REDIS_URL: {super().__str__()}"


@dataclass(frozen=True, slots=True)
class Connected:
    """An open store and its bus."""

    store: Store
    bus: Bus


def connect(
    url: str, *, prefix: str = DEFAULT_PREFIX, durable: bool = False, endpoints: Sequence[str] = ()
) -> Connected:
    """Return the store at `url`, with names that begin with `prefix`; it connects on first use.

    `redis://`, `rediss://` and `unix://` have redis-py's meaning. With TLS (`rediss`, `rediss+...`) the query may have
    `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs=none` and `ssl_check_hostname=false`.
    `redis+sentinel://[user:password@]host:port[,host:port...]/SERVICE[?db=N]`: user and password are for the servers;
    `sentinel_username` and `sentinel_password` in the query are for the Sentinels.
    `redis+cluster://[user:password@]host:port[,host:port...]`: any nodes of a Cluster; one of them must reply.

    Raises:
        StoreUrlError: the URL has another scheme, lacks a part, or names a certificate that cannot be read.
        PrefixError: `prefix` is not valid.
    """
    if "://" not in url:
        # The error does not show the URL, which may contain a password.
        raise StoreUrlError(f"it has no scheme; write redis://HOST:PORT/0, or another of {FORMS}")
    try:
        scheme = urlsplit(url).scheme
        build = {"redis": _direct, "unix": _direct, "redis+sentinel": _sentinel, "redis+cluster": _cluster}.get(
            scheme.replace("rediss", "redis")
        )
        if build is not None:
            return build(url, check_prefix(prefix), {"durable": durable, "endpoints": endpoints})
    except (StoreUrlError, PrefixError):
        raise
    except (OSError, ValueError) as error:
        raise StoreUrlError(str(error)) from error
    raise StoreUrlError(f"the scheme {scheme!r} is not known: use {FORMS}")


def _timeouts(socket_timeout_s: float) -> dict[str, Any]:
    # With redis-py's default of ten attempts, a call to a dead server would take seconds.
    return {
        "socket_timeout": socket_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": CancelSafeRetry(ExponentialWithJitterBackoff(cap=0.2, base=0.02), RETRIES),
        "retry_on_error": [RedisConnectionError, RedisTimeoutError],
        "health_check_interval": 0,
        "max_connections": CONNECTIONS_MAX,
    }


def _endpoint(redis: Redis) -> Endpoint:
    """Return the endpoint that a client connects to.

    Raises:
        OSError: a certificate cannot be read.
    """
    pool = redis.connection_pool
    connection: Any = pool.connection_class(**pool.connection_kwargs)
    tls = connection.ssl_context.get() if hasattr(connection, "ssl_context") else None
    login = {"username": connection.username, "password": connection.password, "tls": tls}
    if path := getattr(connection, "path", None):
        return Endpoint(path=path, **login)
    return Endpoint(connection.host, connection.port, **login)


def _direct(url: str, prefix: str, of_store: Mapping[str, Any]) -> Connected:
    split = urlsplit(url)
    if split.scheme != "unix" and not (split.path.strip("/") or "0").isdecimal():
        raise StoreUrlError(f"the database must be a number, as in {split.scheme}://HOST:PORT/0")
    if split.scheme == "unix" and not split.path:
        raise StoreUrlError("a unix URL is unix:///PATH/TO/SOCKET")
    redis = Redis.from_url(url, **_timeouts(SOCKET_TIMEOUT_S))
    try:
        endpoint = _endpoint(redis)  # fails now for an unknown option, not on first use
    except (TypeError, RedisError) as error:
        names = ", ".join(sorted(dict(parse_qsl(split.query))))
        raise StoreUrlError(f"an option ({names}) is not known, or has a wrong value: {error}") from error

    async def where(_: str) -> Endpoint:
        return endpoint

    keys = Keys(prefix, redis.connection_pool.connection_kwargs.get("db") or 0)
    return Connected(Store(redis, keys, **of_store), Bus(where, renewing(redis).listen))


@dataclass(frozen=True, slots=True)
class _Servers:
    """The parts of a URL with several servers. `login` and `tls`: arguments of redis-py's clients."""

    addresses: tuple[tuple[str, int], ...]
    path: str
    query: Mapping[str, str]
    login: Mapping[str, Any]
    tls: Mapping[str, Any]


def _servers(url: str, default_port: int, options: tuple[str, ...]) -> _Servers:
    """Return the parts of a URL with several servers.

    Args:
        url: the URL.
        default_port: port of an address without one.
        options: names that the query may have, in addition to TLS_OPTIONS if the scheme has TLS.

    Raises:
        StoreUrlError: an unknown option, or an address that is not host:port.
    """
    split = urlsplit(url)
    query = dict(parse_qsl(split.query))
    has_tls = split.scheme.startswith("rediss")
    unknown = [name for name in query if name not in options and not (has_tls and name in TLS_OPTIONS)]
    if unknown:
        raise StoreUrlError(f"{split.scheme} has no option {', '.join(unknown)}")
    userinfo, _, hosts = split.netloc.rpartition("@")
    tls_query = urlencode({name: value for name, value in query.items() if name in TLS_OPTIONS})
    one: dict[str, Any] = dict(parse_url(f"redis://{userinfo}@host?{tls_query}"))
    return _Servers(
        tuple(_address(item, default_port) for item in hosts.split(",")),
        split.path.strip("/"),
        query,
        {name: one.get(name) for name in ("username", "password")},
        {"ssl": has_tls, **{name: one[name] for name in TLS_OPTIONS if name in one}},
    )


def _address(item: str, default_port: int) -> tuple[str, int]:
    host, colon, port = item.rpartition(":")
    if not colon or port.endswith("]"):  # the last colon of [::1] is not before a port
        host, port = item, str(default_port)
    if not host.strip("[]") or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise StoreUrlError(f"{item!r} is not host:port")
    return host.strip("[]"), int(port)


def _sentinel(url: str, prefix: str, of_store: Mapping[str, Any]) -> Connected:
    servers = _servers(url, SENTINEL_PORT, ("db", "sentinel_username", "sentinel_password"))
    database = servers.query.get("db", "0")
    if not servers.path or not database.isdigit():
        raise StoreUrlError("a sentinel URL is redis+sentinel://host:port[,host:port...]/SERVICE[?db=N]")
    watching = {
        "socket_timeout": CONNECT_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": CancelSafeRetry(ExponentialWithJitterBackoff(cap=0.02, base=0.01), 1),
        "username": servers.query.get("sentinel_username"),
        "password": servers.query.get("sentinel_password"),
        **servers.tls,
    }
    sentinel = _Sentinels(servers.addresses, sentinel_kwargs=watching)  # type: ignore[no-untyped-call]
    options = {"db": int(database), **servers.login, **servers.tls, **_timeouts(NODE_TIMEOUT_S)}
    redis = sentinel.master_for(servers.path, connection_pool_class=_SentinelPool, **options)
    endpoint = _endpoint(redis)

    async def where(_: str) -> Endpoint:
        try:
            host, port = await sentinel.discover_master(servers.path)
        except (RedisError, OSError) as error:
            raise StoreError(f"sentinel: {error}") from error
        return replace(endpoint, host=str(host), port=int(port))

    return Connected(Store(redis, Keys(prefix, int(database)), **of_store), Bus(where, renewing(redis).listen))


class _Sentinels(Sentinel):
    """redis-py's Sentinel, with an error text that lists each Sentinel's error."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the primary's host and port from the first Sentinel that has them; it is asked first next time.

        Raises:
            redis.sentinel.MasterNotFoundError: no Sentinel has them; the text is one line with the reasons.
        """
        reasons = []
        for watcher in tuple(self.sentinels):
            name = "{host}:{port}".format_map(watcher.connection_pool.connection_kwargs)
            try:
                masters: Any = await watcher.sentinel_masters()
            except (RedisConnectionError, RedisTimeoutError) as error:
                reasons.append(f"{name}: {error}")
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):
                # By identity: redis-py swaps by index, and concurrent calls then lose a Sentinel.
                self.sentinels = [watcher, *(other for other in self.sentinels if other is not watcher)]
                return state["ip"], state["port"]
            reasons.append(f"{name} {'says that it is down' if state else 'watches no such service'}")
        raise MasterNotFoundError(f"No master found for {service_name!r}: {'; '.join(reasons)}")


class _SentinelPool(SentinelConnectionPool):
    """A pool that also closes its connections to the Sentinels."""

    async def aclose(self) -> None:
        """Close every connection."""
        await super().aclose()
        for watcher in self.sentinel_manager.sentinels:
            await watcher.aclose()


def _cluster(url: str, prefix: str, of_store: Mapping[str, Any]) -> Connected:
    servers = _servers(url, SERVER_PORT, ())
    if servers.path not in ("", "0"):
        raise StoreUrlError("a cluster URL is redis+cluster://host:port[,host:port...]: a Cluster has one database")
    options = {"socket_connect_timeout": CONNECT_TIMEOUT_S, "max_connections": CONNECTIONS_MAX}
    cluster = Cluster(servers.addresses, {**options, **servers.login, **servers.tls})

    endpoint = _endpoint(cluster.node(shard_name(*servers.addresses[0])))

    async def where(shard: str) -> Endpoint:
        host, port = address(shard)
        return replace(endpoint, host=host, port=port)

    return Connected(Store(ClusterRedis(cluster), Keys(prefix), **of_store), Bus(where, cluster=cluster))


@asynccontextmanager
async def open_store(settings: StoreSettings, wait_s: float = START_WAIT_S) -> AsyncIterator[Connected]:
    """Yield the store of `settings`, and its bus.

    An embedded store is shared with the process that runs it, or starts it within `wait_s` seconds. Otherwise this
    process starts it.

    Raises:
        SyncError: the store's URL cannot be used, or the embedded store does not start.
    """
    async with AsyncExitStack() as stack:
        url = settings.redis_url.get_secret_value()
        if not url:
            embedded = server.serve(settings.data_dir, max_wait_s=wait_s, durable=settings.durable)
            url = await stack.enter_async_context(embedded)
        names = [endpoint.name for endpoint in settings.webhook_endpoints]
        connected = connect(url, prefix=settings.prefix, durable=settings.durable, endpoints=names)
        stack.push_async_callback(connected.store.aclose)
        yield connected
