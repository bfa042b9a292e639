"""A TCP proxy that makes a network fail on purpose, between anything and anything (browser, gateway, store).

It moves bytes and knows no protocol. Faults are switched on and off while connections are open:

- `cut()`: every connection ends in order (FIN), new ones are refused while `is_refusing`;
- `reset()`: every connection ends with RST;
- `freeze()` / `thaw()`: bytes stop in both directions, nothing is lost, nobody is told (an unplugged cable);
- `half_open()`: the server's side is gone, the client's side is never told, what the client sends disappears;
- `swallow()`: bytes toward one side are read and thrown away, connections look alive;
- `latency_s`, `bytes_per_s`: delay and rate of each direction, for what is read from now on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CHUNK_BYTES = 65_536
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Link:
    """One proxied connection: two streams and the two tasks that copy between them."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self.client_reader, self.client_writer = client
        self.server_reader, self.server_writer = server
        self.is_orphan = False

    async def run(self) -> None:
        """Copy until either side ends."""
        up = asyncio.ensure_future(self._copy(self.client_reader, self.server_writer, to_server=True))
        down = asyncio.ensure_future(self._copy(self.server_reader, self.client_writer, to_server=False))
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
            while self.is_orphan:
                await self._proxy.changed()
        finally:
            for task in (up, down):
                task.cancel()
            # First: a cancellation may come while the copies are waited for.
            self.close()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_server: bool) -> None:
        proxy = self._proxy
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                if proxy.latency_s:
                    await asyncio.sleep(proxy.latency_s)
                if proxy.bytes_per_s:
                    await asyncio.sleep(len(data) / proxy.bytes_per_s)
                while proxy.is_frozen:
                    await proxy.changed()
                if self.is_orphan or (proxy.swallows_to_server if to_server else proxy.swallows_to_client):
                    proxy.bytes_lost += len(data)
                    continue
                writer.write(data)
                proxy.bytes_to_server += len(data) * to_server
                proxy.bytes_to_client += len(data) * (not to_server)
                await writer.drain()

    def orphan(self) -> None:
        """Close the server's side only; the client's side stays open and unanswered."""
        self.is_orphan = True
        self.server_writer.close()

    def close(self, *, reset: bool = False) -> None:
        """Close both sides, in order or with RST."""
        for writer in (self.client_writer, self.server_writer):
            if reset and (plug := writer.get_extra_info("socket")) is not None and not writer.is_closing():
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
                writer.transport.abort()
            else:
                writer.close()


class Proxy:
    """A listening proxy. `port`: where to connect; `target`: host and port behind it, may be changed at any time.

    Attributes:
        is_refusing: new connections are closed at once.
        latency_s: added to every chunk, each way.
        bytes_per_s: rate of each connection and direction; 0 is no limit.
        accepted: connections taken so far, refused ones included.
        bytes_lost: what was read and thrown away, either way.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        self.is_refusing = False
        self.is_frozen = False
        self.swallows_to_server = False
        self.swallows_to_client = False
        self.latency_s = 0.0
        self.bytes_per_s = 0
        self.accepted = 0
        self.bytes_to_server = 0
        self.bytes_to_client = 0
        self.bytes_lost = 0
        self.links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._change = asyncio.Event()

    async def changed(self) -> None:
        """Wait for the next change of a fault."""
        await self._change.wait()

    def cut(self) -> None:
        """End every connection in order."""
        for link in list(self.links):
            link.is_orphan = False
            link.close()
        self._tell()

    def reset(self) -> None:
        """End every connection with RST."""
        for link in list(self.links):
            link.is_orphan = False
            link.close(reset=True)
        self._tell()

    def freeze(self) -> None:
        """Stop every byte, both ways; connections stay open and new ones are taken, and as silent."""
        self.is_frozen = True

    def thaw(self) -> None:
        """Let the bytes go on, those that waited first."""
        self.is_frozen = False
        self._tell()

    def half_open(self) -> None:
        """Lose the server's side of every open connection without telling the client."""
        for link in list(self.links):
            link.orphan()

    def swallow(self, *, to_server: bool = False, to_client: bool = False) -> None:
        """Throw away what flows in the named directions; without arguments, nothing any more."""
        self.swallows_to_server, self.swallows_to_client = to_server, to_client

    def heal(self) -> None:
        """End every fault that lasts; connections that were lost stay lost."""
        self.is_refusing = False
        self.latency_s, self.bytes_per_s = 0.0, 0
        self.swallow()
        self.thaw()

    def _tell(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # Only `_end` cancels; a cancelled handler would be reported by the stream server as a fault of ours.
            with contextlib.suppress(asyncio.CancelledError):
                await self._link(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.is_refusing:
            return
        if (server := await self._reach()) is None:
            return
        link = Link(self, (reader, writer), server)
        self.links.add(link)
        try:
            await link.run()
        finally:
            self.links.discard(link)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        try:
            reader, writer = await asyncio.open_connection(*self.target)
        except OSError:
            return None
        if self.is_refusing:  # since a moment ago: the fault that began with it has not seen this connection
            writer.close()
            return None
        return reader, writer

    async def _end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def run_proxy(host: str, port: int) -> AsyncIterator[Proxy]:
    """A proxy in front of host:port, on a loopback port chosen by the OS."""
    proxy = Proxy(host, port)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        # A connection taken in the last moment has its task made and begun by then, so that it is ended like the rest.
        for _ in range(3):
            await asyncio.sleep(0)
        await proxy._end()
