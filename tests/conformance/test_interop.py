"""Clients that others wrote hold the same sitting: hello, welcome, snapshots small and large, ack, ping, close."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import picows
import pytest
import websocket
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from gateway.metrics import OTHER
from sync.store.models import Change
from sync.store.store import Store
from tests.support.gateway import environment, run_gateway
from tests.support.servers import missing
from tests.support.wait import until
from tests.support.wire import hello

TOPIC = "tenant:acme"
DONE = 3001
TIMEOUT_S = 10
INTEROP = Path(__file__).resolve().parents[1] / "interop"

Frames = list[dict[str, Any]]


def is_news(frame: dict[str, Any]) -> bool:
    return bool(frame["type"] == "snapshot" and frame["version"] > 0)


def ack(frame: dict[str, Any]) -> str:
    return json.dumps({"type": "ack", "topic": frame["topic"], "version": frame["version"]})


async def by_websockets(url: str, deflate: bool) -> Frames:
    """The synchronous client of `websockets`."""

    def sitting() -> Frames:
        frames: Frames = []
        compression = "deflate" if deflate else None
        with connect(url, subprotocols=[Subprotocol("planwire.v1")], compression=compression) as connection:
            assert bool(connection.protocol.extensions) is deflate
            connection.send(hello(TOPIC).decode())
            while not frames or not is_news(frames[-1]):
                frames.append(json.loads(connection.recv(TIMEOUT_S)))
            connection.send(ack(frames[-1]))
            assert connection.ping("alive").wait(TIMEOUT_S)
            connection.close(DONE, "done")
            assert connection.close_code == DONE
        return frames

    return await asyncio.to_thread(sitting)


async def by_websocket_client(url: str, deflate: bool) -> Frames:
    """`websocket-client`, which knows no compression."""

    def sitting() -> Frames:
        frames: Frames = []
        # Unless told not to, it claims to be a page of the gateway itself.
        connection = websocket.create_connection(url, TIMEOUT_S, subprotocols=["planwire.v1"], suppress_origin=True)
        try:
            assert connection.getsubprotocol() == "planwire.v1"
            connection.send(hello(TOPIC).decode())
            while not frames or not is_news(frames[-1]):
                frames.append(json.loads(connection.recv()))
            connection.send(ack(frames[-1]))
            connection.ping("alive")
            opcode, frame = connection.recv_data_frame(control_frame=True)
            while opcode != websocket.ABNF.OPCODE_PONG:
                opcode, frame = connection.recv_data_frame(control_frame=True)
            assert frame.data == b"alive"
            connection.send_close(DONE, b"done")
            while opcode != websocket.ABNF.OPCODE_CLOSE:  # a heartbeat may come first, and stays unanswered
                frame = connection.recv_frame()  # type: ignore[no-untyped-call]
                opcode = frame.opcode
            assert frame.data == DONE.to_bytes(2, "big") + b"done"
        finally:
            connection.shutdown()  # type: ignore[no-untyped-call]
        return frames

    return await asyncio.to_thread(sitting)


class Listener(picows.WSListener):
    """What came, and whether the sitting went to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: Frames = []
        self.code = 0

    def on_ws_connected(self, transport: Any) -> None:
        transport.send(picows.WSMsgType.TEXT, hello(TOPIC))

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type == picows.WSMsgType.TEXT:
            self.frames.append(json.loads(frame.get_payload_as_bytes()))
            if is_news(self.frames[-1]):
                transport.send(picows.WSMsgType.TEXT, ack(self.frames[-1]).encode())
                transport.send_ping(b"alive")
        elif frame.msg_type == picows.WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == picows.WSMsgType.PONG:
            transport.send_close(DONE, b"done")
        elif frame.msg_type == picows.WSMsgType.CLOSE:
            self.code = frame.get_close_code()
            transport.disconnect()


async def by_picows(url: str, deflate: bool) -> Frames:
    """`picows`, whose parser is written in C."""
    headers = {"Sec-WebSocket-Protocol": "planwire.v1"}
    transport, listener = await picows.ws_connect(Listener, url, extra_headers=headers, enable_auto_pong=False)
    await asyncio.wait_for(transport.wait_disconnected(), TIMEOUT_S)
    assert isinstance(listener, Listener)
    assert listener.code == DONE
    return listener.frames


@pytest.fixture(scope="module")
def node_modules() -> Iterator[Path]:
    """A folder with npm's ws and the script that uses it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        missing("node and npm are not on PATH (Debian: apt-get install nodejs npm)")
    directory = Path(tempfile.mkdtemp(prefix="pw-interop-"))
    for name in ("package.json", "package-lock.json", "session.mjs"):
        shutil.copy(INTEROP / name, directory)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def by_ws(node_modules: Path) -> Callable[[str, bool], Awaitable[Frames]]:
    async def sitting(url: str, deflate: bool) -> Frames:
        """Run npm's `ws` in Node."""
        process = await asyncio.create_subprocess_exec(
            "node",
            "session.mjs",
            url,
            hello(TOPIC).decode(),
            "deflate" if deflate else "plain",
            cwd=node_modules,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        assert process.returncode == 0, errors.decode()
        result = json.loads(output)
        assert (result["code"], result["reason"]) == (DONE, "done")
        assert ("permessage-deflate" in result["extensions"]) is deflate
        frames: Frames = result["frames"]
        return frames

    return sitting


CLIENTS = {
    "websockets": (by_websockets, True),
    "websockets, plain": (by_websockets, False),
    "websocket-client": (by_websocket_client, False),
    "picows": (by_picows, False),
}


@pytest.mark.parametrize("size", [10, 5_000, 100_000], ids=["7 bit length", "16 bit length", "64 bit length"])
@pytest.mark.parametrize("name", [*CLIENTS, "ws", "ws, plain"])
async def test_a_client_of_others_holds_a_sitting(
    name: str, size: int, store_url: str, store: Store, request: pytest.FixtureRequest
) -> None:
    client, deflate = CLIENTS.get(name, (None, name == "ws"))
    client = client or request.getfixturevalue("by_ws")
    state = json.dumps({"text": "ä€😀" + "x" * size}, ensure_ascii=False).encode()
    async with run_gateway(environment(store_url)) as running:
        sitting = asyncio.create_task(client(running.ws_url, deflate))
        channels = running.node.hub.topics
        await until(lambda: sitting.done() or any(live.name == TOPIC for live in channels.values()), TIMEOUT_S)
        committed = await store.commit(Change(TOPIC, state))
        frames = await sitting
        assert frames[0]["type"] == "welcome"
        (news,) = [frame for frame in frames if is_news(frame)]  # what the bus has to say may come beside it
        assert (news["version"], news["state"]) == (committed.version, json.loads(state))
        await until(lambda: running.node.metrics.closed[OTHER] == 1)
        assert not running.node.registry.sockets
