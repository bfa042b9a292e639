"""The parts of a crowd: tabs of two dialects that reconnect by themselves, and the source that publishes to them.

A tab stays connected to one of its ports until cancelled, and can lose its network. It records the state that it shows,
how long it was behind and what reconnecting cost. `python -m benchmarks.crowd` judges these records.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from planwire_client.core import merge_patch
from sync.store.models import Change
from sync.store.redis.connect import connect as connect_store

TICK_S = 0.05
"""Interval at which publishing checks the clock."""

WAKE_S = 0.2
"""Seconds within which a browser client reconnects after the browser's `online` event."""


class Source(ABC):
    """Publishes topics in turn, and records when each state went to the store. States are numbered from 1."""

    def __init__(self, topics: int, rate: int, size: int) -> None:
        self.at: list[list[float]] = [[] for _ in range(topics)]
        self._rate = rate
        self._pad = "x" * (size - 20)
        self._turn = itertools.cycle(range(topics))
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def put(self, states: Sequence[tuple[str, bytes]]) -> None:
        """Write states to the store and announce them."""

    @abstractmethod
    async def newest(self) -> list[int]:
        """Return the number of each topic's state in the store."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the store."""

    async def publish(self, topics: Sequence[int]) -> None:
        now = time.monotonic()
        states = []
        for topic in topics:
            self.at[topic].append(now)
            state = {"n": len(self.at[topic]), "pad": self._pad}
            states.append((f"bench:{topic}", json.dumps(state, separators=(",", ":")).encode()))
        await self.put(states)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Return once no publish is in progress."""
        task, self._task = self._task, None
        if task is not None:
            self._rate = 0
            await task

    async def _run(self) -> None:
        begun, count = time.monotonic(), 0
        while rate := self._rate:
            due = int((time.monotonic() - begun) * rate)
            if due > count:
                await self.publish([next(self._turn) for _ in range(due - count)])
                count = due
            await asyncio.sleep(TICK_S)


class CommitSource(Source):
    """A source that publishes through `Store.commit_many`."""

    def __init__(self, store_port: int, topics: int, rate: int, size: int) -> None:
        super().__init__(topics, rate, size)
        self._store = connect_store(f"redis://127.0.0.1:{store_port}").store

    async def put(self, states: Sequence[tuple[str, bytes]]) -> None:
        for done in await self._store.commit_many([Change(topic, state) for topic, state in states]):
            if isinstance(done, Exception):
                raise done

    async def newest(self) -> list[int]:
        snapshots = await self._store.read_many([f"bench:{topic}" for topic in range(len(self.at))])
        return [json.loads(snapshot.state)["n"] for snapshot in snapshots]

    async def aclose(self) -> None:
        await self._store.aclose()


class SetSource(Source):
    """A source that publishes by SET and PUBLISH, each pair in a transaction."""

    def __init__(self, store_port: int, topics: int, rate: int, size: int) -> None:
        super().__init__(topics, rate, size)
        self._redis = redis.asyncio.Redis(port=store_port)

    async def put(self, states: Sequence[tuple[str, bytes]]) -> None:
        pipeline = self._redis.pipeline(transaction=True)
        for topic, state in states:
            pipeline.set(f"state:{topic}", state)
            pipeline.publish(f"state:{topic}", state)
        await pipeline.execute()

    async def newest(self) -> list[int]:
        states = await self._redis.mget([f"state:bench:{topic}" for topic in range(len(self.at))])
        return [json.loads(state or b"null")["n"] for state in states]

    async def aclose(self) -> None:
        await self._redis.aclose()


class Link(WSListener):
    """One connection of a client. It passes frames on until it is silenced."""

    def __init__(self, client: Client) -> None:
        self._client: Client | None = client
        self.transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        if self._client is None:
            transport.disconnect(graceful=False)
        else:
            self._client.opened(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self._client is None:
            return
        if frame.msg_type is WSMsgType.TEXT:
            self._client.received(frame.get_payload_as_bytes())
        elif frame.msg_type is WSMsgType.CLOSE:
            transport.disconnect(graceful=False)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self._client is not None:
            self._client.lost()

    def send(self, text: str) -> None:
        if self.transport is not None:
            self.transport.send(WSMsgType.TEXT, text.encode())

    def leave(self, is_silent: bool = False) -> None:
        """Detach from the client: closed, or left open but never read again."""
        self._client = None
        if self.transport is not None:
            if is_silent:
                self.transport.underlying_transport.pause_reading()
            else:
                self.transport.disconnect(graceful=False)


class Client(ABC):
    """A tab on one topic. It stays connected to one of `ports`, and records the state that it shows and since when."""

    url = ""
    headers: dict[str, str] = {}  # noqa: RUF012
    max_wait_s = 20.0
    hears_online = False

    def __init__(self, index: int, topic: int, ports: Sequence[int], source: Source) -> None:
        self.index, self.topic, self.ports = index, topic, ports
        self.chance = random.Random(index)
        self.shown = 0
        self.shown_at = self._wrong_since = 0.0
        self.back_at = 0.0
        self.is_back = False
        self.behind_s = 0.0
        self.lags: list[float] | None = None  # seconds from each state's publish to here, once recording is on
        self.regressions = self.refused = self.returns = self.frames = self.bytes = 0
        self.attempt = 0
        self._published = source.at[topic]
        self._offline_until = 0.0
        self._missed_until = 0.0
        self.absences: list[float] = []  # seconds from each return of the network to the newest state
        self._delay: float | None = None
        self._woken = asyncio.Event()
        self._turned = asyncio.Event()  # it is back, or its connection is gone
        self.link: Link | None = None
        self.ghosts: list[Link] = []

    # Implemented by the dialects.

    def greet(self) -> None:  # noqa: B027 - most wait to be spoken to
        """Send the first message, if the protocol expects it from the client."""

    @abstractmethod
    def take(self, text: bytes) -> None:
        """Handle one frame."""

    @abstractmethod
    def back_off(self) -> float:
        """Return the seconds until the next attempt."""

    # The life of a tab.

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            self._turned.clear()
            self._delay = None
            if await self._connect():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._turned.wait(), self.max_wait_s)
                if self.is_back:
                    self._turned.clear()
                    await self._turned.wait()
                self.drop()
            delay_s = self.back_off() if self._delay is None else self._delay
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), delay_s)
                await asyncio.sleep(self.chance.random() * WAKE_S)

    async def _connect(self) -> bool:
        if time.monotonic() < self._offline_until:
            return False
        for port in self.chance.sample(self.ports, len(self.ports)):
            url = f"ws://127.0.0.1:{port}{self.url}"
            link = Link(self)
            try:
                await ws_connect(
                    lambda link=link: link,
                    url,
                    extra_headers={**self.headers, "Origin": f"http://127.0.0.1:{port}"},
                    websocket_handshake_timeout=self.max_wait_s,
                )
            except (OSError, WSError, TimeoutError, asyncio.CancelledError) as error:
                link.leave()
                if isinstance(error, asyncio.CancelledError):
                    raise
                continue
            return True
        self.refused += 1
        return False

    def opened(self, link: Link) -> None:
        if time.monotonic() < self._offline_until:
            link.leave()
            self._turned.set()
            return
        self.link = link
        self.is_back = False
        self.returns += 1
        self.greet()

    def received(self, text: bytes) -> None:
        if not self.is_back and self.returns > 1:
            self.frames += 1
            self.bytes += len(text)
        self.take(text)

    def lost(self) -> None:
        self.drop()

    def drop(self, *, is_silent: bool = False, delay_s: float | None = None) -> None:
        """Drop the connection."""
        link, self.link = self.link, None
        self.is_back = False
        if delay_s is not None:
            self._delay = delay_s
        if link is not None:
            link.leave(is_silent)
            if is_silent:
                self.ghosts.append(link)
            self._turned.set()

    def cut(self, seconds: float, *, is_silent: bool) -> None:
        """Lose the network for a while. `silent`: the server sees no close."""
        self._offline_until = time.monotonic() + seconds
        self.drop(is_silent=is_silent)
        if self.hears_online:
            asyncio.get_running_loop().call_at(self._offline_until + 0.001, self._hear_online)

    def _hear_online(self) -> None:
        if self.link is None and time.monotonic() >= self._offline_until:
            self._woken.set()

    def show(self, number: int) -> None:
        """Show a state."""
        now = time.monotonic()
        if number > self.shown:
            self.behind_s = max(self.behind_s, now - max(self._published[self.shown], self._wrong_since))
            if self.lags is not None:
                self.lags.append(now - self._published[number - 1])
        elif number < self.shown:
            self.regressions += 1
            self._wrong_since = now
        if number != self.shown:
            self.shown, self.shown_at = number, now

    def settle(self) -> None:
        """Mark the reconnect as complete: the shown state is the newest known to the server."""
        if not self.is_back:
            self.is_back = True
            self._turned.set()
            self.back_at = time.monotonic()
            if self._offline_until > self._missed_until:
                self._missed_until = self._offline_until
                self.absences.append(self.back_at - self._offline_until)
            self.attempt = 0


class PlanwireClient(Client):
    """`planwire.v1`, as the browser client speaks it."""

    url = "/v1/connect"
    headers = {"Sec-WebSocket-Protocol": "planwire.v1"}  # noqa: RUF012
    max_wait_s = 10.0
    tokens: Sequence[str] = ()

    def __init__(self, index: int, topic: int, ports: Sequence[int], source: Source) -> None:
        super().__init__(index, topic, ports, source)
        self._version = 0
        self._state: Any = None
        self._reconnect_ms = (500, 30_000)
        self._share, self._after_ms = 1.0, 250.0

    def back_off(self) -> float:
        least, most = self._reconnect_ms
        bound_ms: int = min(most, least << self.attempt)
        self.attempt += 1
        return self.chance.random() * bound_ms / 1000

    def greet(self) -> None:
        topics = {f"bench:{self.topic}": self._version}
        hello = {"type": "hello", "token": self.tokens[self.index], "topics": topics, "client": "crowd"}
        assert self.link is not None
        self.link.send(json.dumps(hello))

    def take(self, text: bytes) -> None:
        frame = json.loads(text)
        kind = frame["type"]
        if kind == "bye":
            self.drop(delay_s=self.chance.random() * frame["reconnect_ms"] / 1000)
        elif kind == "welcome":
            self._reconnect_ms = frame["reconnect"]["min_ms"], frame["reconnect"]["max_ms"]
            self._share, self._after_ms = frame["ack"]["share"], frame["ack"]["after_ms"]
        elif kind == "ack_policy":
            self._share, self._after_ms = frame["share"], frame["after_ms"]
        elif kind == "current":
            self.settle()
        elif kind in ("snapshot", "patch"):
            self._change(frame)
            self.settle()
        elif kind == "error":
            raise SystemExit(f"the gateway says {frame}")

    def _change(self, frame: dict[str, Any]) -> None:
        version = frame["version"]
        if version <= self._version and not frame.get("reset"):
            return
        if frame["type"] == "patch":
            if frame["base"] != self._version:
                raise SystemExit(f"a patch on {frame['base']} for {self._version}")
            self._state = merge_patch.apply(self._state, frame["patch"])
        else:
            self._state = frame["state"]
        self._version = version
        self.show(self._state["n"])
        if self.chance.random() < self._share:
            after_s = self.chance.random() * self._after_ms / 1000
            asyncio.get_running_loop().call_later(after_s, self._ack, version)

    def _ack(self, version: int) -> None:
        if self.link is not None and self._version == version:
            self.link.send(json.dumps({"type": "ack", "topic": f"bench:{self.topic}", "version": version}))


class WokenPlanwireClient(PlanwireClient):
    """The same in a browser that sends the `online` event when its network is back."""

    hears_online = True


class SocketIoClient(Client):
    """Socket.IO protocol 5 over Engine.IO 4, by WebSocket only, with recovery if the server offers it."""

    url = "/socket.io/?EIO=4&transport=websocket"

    def __init__(self, index: int, topic: int, ports: Sequence[int], source: Source) -> None:
        super().__init__(index, topic, ports, source)
        self._pid: str | None = None
        self._offset: str | None = None
        self._is_connected = self._has_state = False
        self.recovered = 0

    def back_off(self) -> float:
        delay = float(1 << self.attempt)
        self.attempt = min(self.attempt + 1, 10)
        delay += self.chance.choice((-1, 1)) * self.chance.random() * 0.5 * delay
        return min(delay, 5.0)

    def take(self, text: bytes) -> None:
        assert self.link is not None
        if text.startswith(b"42"):
            name, *arguments = json.loads(text[2:])
            if self._pid is not None and isinstance(arguments[-1], str):
                self._offset = arguments[-1]
            if name == "state" and arguments[0] is not None:
                self._has_state = True
                self.show(arguments[0]["n"])
        elif text == b"2":
            self.link.send("3")
        elif text.startswith(b"0"):
            self._is_connected = self._has_state = False
            auth: dict[str, Any] = {"topic": f"bench:{self.topic}"}
            if self._pid is not None:
                auth |= {"pid": self._pid, "offset": self._offset}
            self.link.send("40" + json.dumps(auth))
        elif text.startswith(b"40"):
            pid = json.loads(text[2:]).get("pid")
            self._is_connected = True
            if pid is not None and pid == self._pid:
                self._has_state = True
                self.recovered += 1
            self._pid = pid
        else:
            self.drop()
            return
        if self._is_connected and self._has_state:
            self.settle()
