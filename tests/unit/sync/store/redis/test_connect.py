"""What store URLs say: schemes, addresses, options. No server is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sync.store.redis.cluster_commands import ClusterRedis
from sync.store.redis.connect import StoreUrlError, connect


async def test_a_cluster_url_names_its_nodes_and_its_login() -> None:
    connected = connect("redis+cluster://us%40er:p%3Aw@h1:7000,h2,[fe80::1]:7002")
    assert isinstance(connected.store.redis, ClusterRedis)
    cluster = connected.store.redis.nodes
    assert cluster._seeds == ["h1:7000", "h2:6379", "fe80::1:7002"]
    assert connected.bus.is_sharded
    assert connected.bus.layout is None
    endpoint = await connected.bus.endpoint("h9:1")
    assert (endpoint.host, endpoint.port, endpoint.username, endpoint.password) == ("h9", 1, "us@er", "p:w")
    assert endpoint.tls is None
    assert "p:w" not in repr(endpoint)


async def test_tls_options_hold_for_commands_and_for_the_bus() -> None:
    connected = connect("rediss+cluster://h?ssl_check_hostname=false")
    endpoint = await connected.bus.endpoint("h:6379")
    assert endpoint.tls is not None
    assert not endpoint.tls.check_hostname
    assert isinstance(connected.store.redis, ClusterRedis)
    node = connected.store.redis.nodes.node("h:6379")
    assert node.connection_pool.connection_kwargs["ssl_check_hostname"] is False


async def test_concurrent_discoveries_lose_no_sentinel() -> None:
    """The first one does not know the primary, so that all callers go on to the second, which is then asked first."""
    connected = connect("redis+sentinel://first,second,third/s")
    pool: Any = connected.store.redis.connection_pool
    first, second, third = pool.sentinel_manager.sentinels
    primary = {"ip": "h", "port": 1, "is_master": True, "is_sdown": False, "is_odown": False, "num-other-sentinels": 2}
    all_ask = asyncio.Barrier(3)

    async def knows_nothing() -> dict[str, Any]:
        return {}

    async def knows() -> dict[str, Any]:
        await all_ask.wait()
        return {"s": primary}

    first.sentinel_masters, second.sentinel_masters = knows_nothing, knows
    found = await asyncio.gather(*(connected.bus.endpoint("") for _ in range(3)))
    assert {(endpoint.host, endpoint.port) for endpoint in found} == {("h", 1)}
    assert pool.sentinel_manager.sentinels == [second, first, third]


async def test_one_server_has_the_bus_of_one() -> None:
    for url in (
        "redis://h:1",
        "rediss://h",
        "unix:///s.sock",
        "redis+sentinel://h/s",
        "rediss+sentinel://h,g:1/s?db=2",
    ):
        connected = connect(url)
        assert not connected.bus.is_sharded
        assert connected.bus.layout is not None
        assert connected.bus.layout.shards == ("",)
        assert connected.store.by_shard(["tenant:a", "tenant:b"]) == {"": ["tenant:a", "tenant:b"]}
        await connected.store.aclose()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://h", "scheme 'http' is not known: use redis://"),
        ("redis+cluster://", "is not host:port"),
        ("redis+cluster://h:x", "'h:x' is not host:port"),
        ("redis+cluster://h:0", "'h:0' is not host:port"),
        ("redis+cluster://h:65536", "is not host:port"),
        ("redis+cluster://h,", "'' is not host:port"),
        ("redis+cluster://h/3", "a Cluster has one database"),
        ("redis+cluster://h?db=3", "has no option db"),
        ("redis+cluster://h?ssl_ca_certs=x", "has no option ssl_ca_certs"),
        ("rediss+cluster://h?ssl_ca=x", "has no option ssl_ca"),
        ("rediss+cluster://h?ssl_ca_certs=/nowhere", "No such file"),
        ("redis+sentinel://h", "a sentinel URL is"),
        ("redis+sentinel://h/s?db=x", "a sentinel URL is"),
        ("redis://h:x", "PLANWIRE_REDIS_URL: Port could not be cast"),
        ("redis://h/abc", "the database must be a number"),
        ("redis://h?foo=1", r"an option \(foo\) is not known"),
        ("rediss://h?ssl_cert_reqs=bogus", "an option .* has a wrong value"),
        ("unix://", "a unix URL is unix:///PATH"),
        ("localhost:6379", "PLANWIRE_REDIS_URL: it has no scheme; write redis://HOST:PORT/0"),
        ("localhost", "it has no scheme"),
        ("redis:localhost:6379", "it has no scheme"),
    ],
)
def test_a_url_that_cannot_be_used_is_a_clear_error(url: str, text: str) -> None:
    with pytest.raises(StoreUrlError, match=text):
        connect(url)


def test_no_error_shows_the_password() -> None:
    for url in (
        "redis+cluster://u:s3cret@h:x",
        "redis+sentinel://u:s3cret@h",
        "redis+other://u:s3cret@h",
        "s3cret:6379",
        "u:s3cret@h",
    ):
        with pytest.raises(StoreUrlError) as caught:
            connect(url)
        assert "s3cret" not in str(caught.value)
