"""A server that speaks just enough of the Redis protocol to answer every command with what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis

LOGIN = {
    b"HELLO": b"%3\r\n$5\r\nproto\r\n:3\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
    b"AUTH": b"+OK\r\n",
    b"CLIENT": b"+OK\r\n",
    b"SELECT": b"+OK\r\n",
}
"""What a client sends before its first command, and how a primary answers."""

Command = list[bytes]


class FakeStore:
    """What the server answers, and what it was asked.

    Attributes:
        port: where it listens.
        answer: takes a command, returns the reply's bytes; None: no reply, as where a connection is half open.
        commands: all commands so far, logins aside.
        connections: how many were accepted so far.
        open: how many are open now.
    """

    def __init__(self) -> None:
        self.port = 0
        self.answer: Callable[[Command], bytes | None] = lambda command: b"+OK\r\n"
        self.login: dict[bytes, bytes] = dict(LOGIN)
        self.commands: list[Command] = []
        self.connections = 0
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until its end."""
        self.connections += 1
        self.open += 1
        parser = hiredis.Reader()
        try:
            while data := await reader.read(65_536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    reply = self.login.get(command[0].upper())
                    if reply is None:
                        self.commands.append(command)
                        reply = self.answer(command)
                    if reply is not None:
                        writer.write(reply)
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def fake_store() -> AsyncIterator[FakeStore]:
    """A fake store on a loopback port that the OS chose."""
    store = FakeStore()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await store.serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the stream server would report it as a fault
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    store.port = server.sockets[0].getsockname()[1]
    try:
        yield store
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
