"""The fault proxy does what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import Proxy, run_proxy
from tests.support.wait import until


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy in front of an echo server."""
    writers: set[asyncio.StreamWriter] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            writers.discard(writer)

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with run_proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()
    for writer in set(writers):
        writer.close()
    # Left to the end of the loop, a handler would be cancelled there, and that is reported as a fault.
    await until(lambda: not writers)


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, data: bytes, timeout_s: float = 10.0) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(timeout_s):
            return await self.reader.read(1000)

    async def hears_nothing(self, data: bytes) -> None:
        with pytest.raises(TimeoutError):
            await self.says(data, 0.1)

    async def loses(self, data: bytes, proxy: Proxy) -> None:
        """Say what is thrown away, it or its echo; return once it has been."""
        before = proxy.bytes_lost
        await self.hears_nothing(data)
        await until(lambda: proxy.bytes_lost == before + len(data))


@pytest.fixture
async def caller(proxy: Proxy) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    yield Caller(reader, writer)
    writer.close()


async def test_bytes_pass_both_ways(proxy: Proxy, caller: Caller) -> None:
    assert await caller.says(b"hello") == b"hello"
    assert (proxy.bytes_to_server, proxy.bytes_to_client, proxy.accepted) == (5, 5, 1)


async def test_cut_ends_in_order_and_refuses_while_told_to(proxy: Proxy, caller: Caller) -> None:
    await caller.says(b"x")
    proxy.is_refusing = True
    proxy.cut()
    assert await caller.reader.read() == b""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await reader.read() == b""
    writer.close()
    proxy.heal()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await Caller(reader, writer).says(b"again") == b"again"
    writer.close()


async def test_what_connects_as_the_fault_begins_is_refused_too(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    await until(lambda: proxy.accepted == 1, every_s=0)
    assert not proxy.links, "it is being made"
    proxy.is_refusing = True
    proxy.cut()
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    assert not proxy.links
    writer.close()


async def test_reset_is_a_reset(proxy: Proxy, caller: Caller) -> None:
    await caller.says(b"x")
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await caller.reader.read()


async def test_frozen_bytes_wait_and_none_is_lost(proxy: Proxy, caller: Caller) -> None:
    await caller.says(b"x")
    proxy.freeze()
    await caller.hears_nothing(b"late")
    proxy.thaw()
    assert await caller.says(b"!") in (b"late", b"late!")


async def test_a_half_open_connection_looks_alive_and_is_not(proxy: Proxy, caller: Caller) -> None:
    await caller.says(b"x")
    proxy.half_open()
    await caller.loses(b"anybody?", proxy)
    assert not caller.reader.at_eof()
    proxy.cut()
    assert await caller.reader.read() == b""
    await until(lambda: not proxy.links)


async def test_swallowed_bytes_are_gone(proxy: Proxy, caller: Caller) -> None:
    await caller.says(b"x")
    proxy.swallow(to_client=True)
    await caller.loses(b"lost", proxy)
    proxy.swallow()
    assert await caller.says(b"kept") == b"kept"


async def test_latency_and_bandwidth_take_their_time(proxy: Proxy, caller: Caller) -> None:
    clock = asyncio.get_running_loop().time
    proxy.latency_s = 0.05
    started = clock()
    assert await caller.says(b"x") == b"x"
    assert clock() - started >= 0.1
    proxy.latency_s, proxy.bytes_per_s = 0, 1000
    started = clock()
    assert await caller.says(b"y" * 100) == b"y" * 100
    assert clock() - started >= 0.2
