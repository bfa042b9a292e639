"""One socket to a gateway that keeps up to 64 topics current, and comes back whenever it is lost.

It writes what it learns into the `Held` entries it was given; who reads them, and what for, is replica.py's. Written
against docs/protocol.md of the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from planwire_client import __version__
from planwire_client.core import merge_patch
from planwire_client.core.limits import TOPICS_PER_SOCKET
from planwire_client.errors import ReplicaClosed, TopicRefused
from planwire_client.http import retry_after_s
from planwire_client.snapshot import Snapshot
from planwire_client.tokens import TokenError, TokenSource

SUBPROTOCOL = Subprotocol("planwire.v1")
CLIENT = f"planwire-python/{__version__}"
CONNECT_PATH = "/v1/connect"

OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
FRAME_MAX_BYTES = 4_194_304

MISSED_HEARTBEATS = 2.5
"""Silence for this many heartbeats: what is held may be old, and the connection is dead."""

RECONNECT_MIN_S, RECONNECT_MAX_S = 0.5, 30.0
"""Until a welcome says otherwise."""

STEADY_S = 5.0
"""How long a connection must have lasted, from its welcome, for the next pause to start small again."""

FRAMES_PER_S = 20
"""How fast subscriptions and acks are sent: well below the gateway's FRAMES_PER_S."""

REFRESH_SHARE = 0.8
"""At which share of a token's remaining life it is exchanged, with jitter below."""

REFRESH_RETRY_S = 5.0

REFUSED_FOR_S = 30.0
"""How long a refused topic is believed to be, before a waiting call has it asked for again."""

TOKEN_CLOSE = 4401
FINAL_FROM, FINAL_TO = 4500, 5000

HANDSHAKE_FINAL = frozenset((400, 403, 404, 405, 426))
"""Statuses of a refused handshake that coming back would not change."""

CAUSE_CHARS_MAX = 300

T = TypeVar("T")

log = logging.getLogger("planwire_client")


class Held:
    """What is held of one topic. Written by its link, in the event loop; read by anyone, from any thread.

    Attributes:
        snapshot: the newest, or None before the first.
        confirmed: whether this connection has said that it is the newest.
        refused: why the topic is not served, or empty.
        asked_again: it was refused, and has been asked for since with a token fetched after that.
    """

    __slots__ = ("asked_again", "confirmed", "link", "refused", "refused_at", "snapshot", "topic", "waiters")

    def __init__(self, topic: str, link: Link) -> None:
        self.topic = topic
        self.link = link
        self.snapshot: Snapshot | None = None
        self.confirmed = False
        self.refused = ""
        self.refused_at = 0.0
        self.asked_again = False
        self.waiters: list[tuple[int, asyncio.Future[Snapshot]]] = []

    @property
    def is_fresh(self) -> bool:
        """Whether the snapshot is proved to be the newest, as of now: silence counts as no."""
        return self.confirmed and time.monotonic() < self.link.fresh_until

    def settle(self) -> None:
        """Answer those whose version is there."""
        snapshot = self.snapshot
        if snapshot is None or not self.waiters or not self.is_fresh:
            return
        for wanted, future in self.waiters:
            if snapshot.version >= wanted and not future.done():
                future.set_result(snapshot)
        self.waiters = [waiter for waiter in self.waiters if not waiter[1].done()]

    def fail(self, error: Exception) -> None:
        """Answer all that wait."""
        for _, future in self.waiters:
            if not future.done():
                future.set_exception(error)
        self.waiters = []


class ConnectionEnded(Exception):
    """This connection has ended. `pause_s`: when the gateway said when to come back; `is_token`: with a new token."""

    def __init__(self, why: str, pause_s: float | None = None, *, is_token: bool = False) -> None:
        super().__init__(why)
        self.pause_s = pause_s
        self.is_token = is_token


class Link:
    """One socket's life after life. `run` owns it; the other methods are called in the same event loop.

    Attributes:
        fresh_until: monotonic seconds until which the gateway's last word that it hears every change counts.
        closed: None while it goes on, else why it does not.
        cause: what went wrong last and is not over, at most CAUSE_CHARS_MAX characters; empty where nothing is.
    """

    def __init__(
        self,
        url: str,
        tokens: TokenSource,
        changed: Callable[[Snapshot, Snapshot | None], None],
        looked: Callable[[], None],
        topics_max: int = TOPICS_PER_SOCKET,
    ) -> None:
        """`changed`: called with each new snapshot and the one before; `looked`: when freshness may have changed."""
        self.topics: dict[str, Held] = {}
        self.fresh_until = 0.0
        self.closed: ReplicaClosed | None = None
        self.cause = ""
        self.topics_max = topics_max
        self._url = "ws" + url.rstrip("/").removeprefix("http") + CONNECT_PATH
        self._tokens = tokens
        self._changed = changed
        self._looked = looked
        self._bearer = ""
        self._silence_s = OPEN_TIMEOUT_S
        self._reconnect_s = (RECONNECT_MIN_S, RECONNECT_MAX_S)
        self._ack = (1.0, 0.25)
        self._ack_of: dict[str, tuple[float, float]] = {}
        self._wake = asyncio.Event()
        self._token_wake = asyncio.Event()
        self._up = False
        self._up_since = float("inf")
        self._deadline = 0.0
        self._asks: dict[str, bool] = {}
        self._acks: dict[str, tuple[float, int]] = {}
        self._nacks: dict[str, tuple[int, str]] = {}
        self._refresh_at = float("inf")
        self._after_token: set[str] = set()

    # What the replica asks.

    def add(self, topic: str) -> Held:
        """Return the entry of a topic that is kept current from now on."""
        held = self.topics[topic] = Held(topic, self)
        self._ask(topic)
        return held

    def remove(self, topic: str) -> None:
        """Forget the topic."""
        held = self.topics.pop(topic)
        held.confirmed = False
        self._acks.pop(topic, None)
        self._ack_of.pop(topic, None)
        self._after_token.discard(topic)
        self._asks[topic] = False
        self._wake.set()

    def ask_again(self, held: Held) -> None:
        """Have a refused topic asked for once more, with a new token first if it is refused again."""
        held.refused, held.asked_again = "", False
        self._ask(held.topic)

    def _ask(self, topic: str) -> None:
        """Have a subscribe sent, unless a hello does it."""
        self._asks[topic] = True
        self._wake.set()

    # Life after life.

    async def run(self) -> None:
        """Stay connected until cancelled, or until the gateway says for good that it will not be.

        Then `closed` tells why, and everything that waits is answered with it.
        """
        failures = 0
        while self.closed is None:
            self._up_since = float("inf")
            over = await self._attempt()
            lasted_s = time.monotonic() - self._up_since
            self._report(str(self.closed if over is None else over))
            self._lost()
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # On CPython 3.11 a task group drops a cancel that comes while it ends for an error of its own.
                raise asyncio.CancelledError
            if over is None:
                break
            failures = 0 if lasted_s > STEADY_S else failures + 1
            least_s, most_s = self._reconnect_s
            pause_s = over.pause_s
            if pause_s is None:
                pause_s = random.uniform(0, min(most_s, least_s * 2.0 ** min(failures, 20)))  # noqa: S311 - jitter
            if over.is_token:
                self._bearer = ""
            log.info("planwire: connection lost (%s), coming back in %.1f s", over, pause_s)
            await asyncio.sleep(pause_s)
        assert self.closed is not None, "it ended for a reason"
        log.error("planwire: %s", self.closed)
        for held in self.topics.values():
            held.fail(self.closed)

    async def _attempt(self) -> ConnectionEnded | None:
        """Return why one connection ended, or None where the gateway ended it for good.

        This is the top of a connection: an error that nobody foresaw costs the connection, and never the replica.
        """
        try:
            return await _uncancelled(self._connect_once)
        except Exception as error:
            log.exception("planwire: a connection failed in a way that was not foreseen")
            return ConnectionEnded(f"not foreseen: {_text_of(error)}")

    def _report(self, cause: str) -> None:
        """Say what is wrong, or that nothing is."""
        self.cause = cause[:CAUSE_CHARS_MAX]
        self._looked()

    async def _connect_once(self) -> ConnectionEnded | None:
        """Be connected once; return why it ended, or None where it did for good."""
        try:
            if not self._bearer:
                self._bearer = await self._fetch_token()
            async with connect(
                self._url,
                subprotocols=[SUBPROTOCOL],
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                # The gateway pings with every heartbeat, and its silence is noticed.
                ping_interval=None,
                max_size=FRAME_MAX_BYTES,
                user_agent_header=CLIENT,
            ) as socket:
                try:
                    return await self._talk(socket)
                except asyncio.CancelledError:
                    # Leaving in order: the gateway need not take it for a failure.
                    await socket.close()
                    raise
        except ConnectionEnded as over:
            return over
        except InvalidStatus as error:
            return self._refused(error)
        except InvalidURI as error:
            self.closed = ReplicaClosed("", 0, str(error))
            return None
        except (InvalidHandshake, OSError, TimeoutError) as error:
            return ConnectionEnded(f"{type(error).__name__}: {error}")

    def _refused(self, error: InvalidStatus) -> ConnectionEnded | None:
        status = error.response.status_code
        if status in HANDSHAKE_FINAL:
            self.closed = ReplicaClosed("", status, (error.response.body or b"").decode(errors="replace")[:200])
            return None
        wait_s = retry_after_s(error.response.headers.get("Retry-After"), time.time())
        if wait_s is None:
            return ConnectionEnded(f"status {status}")
        return ConnectionEnded(f"status {status}", wait_s * random.uniform(1, 2))  # noqa: S311 - jitter

    async def _fetch_token(self) -> str:
        """Return a token.

        Raises:
            _Over: there is none now; it is asked for again after a pause.
        """
        try:
            return await self._tokens.fetch()
        except TokenError as error:
            # What is held goes on being served, as stale.
            log.warning("planwire: %s", error, exc_info=error.__cause__)
            raise ConnectionEnded(f"no token: {error}") from error

    async def _talk(self, socket: ClientConnection) -> ConnectionEnded | None:
        self._asks.clear()
        self._acks.clear()
        self._after_token.clear()
        topics = {name: held.snapshot.version if held.snapshot else 0 for name, held in self.topics.items()}
        self._silence_s = OPEN_TIMEOUT_S
        over: ConnectionEnded | None = None
        try:
            await _send(socket, {"type": "hello", "token": self._bearer, "topics": topics, "client": CLIENT})
            async with asyncio.TaskGroup() as group:
                helpers = [group.create_task(_uncancelled(work, socket)) for work in (self._writer, self._keep_token)]
                over = await self._listen(socket)
                for helper in helpers:
                    helper.cancel()
        except* ConnectionClosed as closed:
            # All of them are of the same close.
            found = closed.exceptions[0]
            assert isinstance(found, ConnectionClosed), "the group holds nothing else"
            over = self._ended(found)
        return over

    async def _listen(self, socket: ClientConnection) -> ConnectionEnded:
        """Take frames until it is over."""
        self._deadline = asyncio.get_running_loop().time() + self._silence_s
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    data = await socket.recv()
            except TimeoutError:
                # Nobody is there to shake hands with.
                socket.transport.abort()
                return ConnectionEnded("silence")
            try:
                pause_s = self._take(orjson.loads(data))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                return ConnectionEnded(f"a frame that makes no sense: {error!r}")
            if pause_s is not None:
                return ConnectionEnded("the gateway is going away", pause_s)

    def _ended(self, closed: ConnectionClosed) -> ConnectionEnded | None:
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else (1006, "")
        if code == TOKEN_CLOSE and not self._tokens.is_fixed:
            return ConnectionEnded(f"{code} {reason}", is_token=True)
        if code == TOKEN_CLOSE or FINAL_FROM <= code < FINAL_TO:
            self.closed = ReplicaClosed("", code, reason)
            return None
        return ConnectionEnded(f"{code} {reason}".rstrip())

    def _lost(self) -> None:
        self._up = False
        self.fresh_until = 0.0
        self._refresh_at = float("inf")
        for held in self.topics.values():
            held.confirmed = False
        self._looked()

    # Frames in.

    def _take(self, frame: dict[str, Any]) -> float | None:
        """Take one frame. Returns when to come back, after a `bye`."""
        match frame.get("type"):
            case "heartbeat":
                self._alive(frame["fresh"])
            case "snapshot":
                held = self.topics.get(frame["topic"])
                if held is not None:
                    self._snapshot(held, frame)
            case "patch":
                held = self.topics.get(frame["topic"])
                if held is not None:
                    self._patch(held, frame)
            case "current":
                held = self.topics.get(frame["topic"])
                if held is not None:
                    self._current(held, frame["version"])
            case "welcome":
                self._welcome(frame)
            case "ack_policy":
                if frame.get("topic"):
                    self._ack_of[frame["topic"]] = (frame["share"], frame["after_ms"] / 1000)
                else:
                    self._ack = (frame["share"], frame["after_ms"] / 1000)
            case "gone":
                self._gone(frame["topic"], frame["reason"])
            case "error":
                self._error(frame)
            case "bye":
                return random.uniform(0, frame["reconnect_ms"] / 1000)  # noqa: S311 - jitter
        return None

    def _welcome(self, frame: dict[str, Any]) -> None:
        self._silence_s = MISSED_HEARTBEATS * frame["heartbeat_ms"] / 1000
        self._reconnect_s = (frame["reconnect"]["min_ms"] / 1000, frame["reconnect"]["max_ms"] / 1000)
        self._ack = (frame["ack"]["share"], frame["ack"]["after_ms"] / 1000)
        left_s = max(0.0, frame["token_expires_at"] - time.time())
        if not self._tokens.is_fixed:
            share = REFRESH_SHARE * random.uniform(0.9, 1)  # noqa: S311 - jitter
            self._refresh_at = time.monotonic() + left_s * share
        if not self._up:
            self._up, self._up_since = True, time.monotonic()
        self._token_wake.set()
        self._report("")
        self._alive(frame["fresh"])
        self._wake.set()

    def _alive(self, is_fresh: bool) -> None:
        now = time.monotonic()
        self._deadline = asyncio.get_running_loop().time() + self._silence_s
        self.fresh_until = now + self._silence_s if is_fresh else 0.0
        for held in self.topics.values():
            held.settle()
        self._looked()

    def _snapshot(self, held: Held, frame: dict[str, Any]) -> None:
        before, version = held.snapshot, frame["version"]
        if before is not None and not frame.get("reset") and version <= before.version:
            if version == before.version:
                self._current(held, version)
            return  # older than what is held: never
        self._install(held, Snapshot(held.topic, version, frame["state"], frame.get("cause") or {}))

    def _patch(self, held: Held, frame: dict[str, Any]) -> None:
        before = held.snapshot
        if before is None or before.version != frame["base"]:
            if before is None or frame["version"] > before.version:
                self._ask(held.topic)  # greeted anew, for what is held
            return
        state = merge_patch.apply(before.state, frame["patch"])
        self._install(held, Snapshot(held.topic, frame["version"], state, frame.get("cause") or {}))

    def _install(self, held: Held, snapshot: Snapshot) -> None:
        before, held.snapshot = held.snapshot, snapshot
        self._confirm(held)
        try:
            self._changed(snapshot, before)
        except Exception as error:
            # The caller's own code; what is held is right all the same, and the gateway is told.
            log.exception("planwire: a listener failed on version %d of %s", snapshot.version, held.topic)
            self._nacks[held.topic] = (snapshot.version, repr(error)[:200])
            self._wake.set()
            return
        share, after_s = self._ack_of.get(held.topic, self._ack)
        if snapshot.version and random.random() < share:  # noqa: S311 - sampling
            at = time.monotonic() + random.uniform(0, after_s)  # noqa: S311 - jitter
            due = self._acks.get(held.topic)
            self._acks[held.topic] = (due[0] if due is not None else at, snapshot.version)
            self._wake.set()

    def _current(self, held: Held, version: int) -> None:
        if held.snapshot is not None and held.snapshot.version == version:
            self._confirm(held)
        elif held.snapshot is None or held.snapshot.version < version:
            self._ask(held.topic)

    def _confirm(self, held: Held) -> None:
        held.confirmed, held.refused, held.asked_again = True, "", False
        held.settle()
        self._looked()

    def _gone(self, topic: str, reason: str) -> None:
        held = self.topics.get(topic)
        if held is None:
            return
        if reason == "expired" and not held.asked_again:
            self._ask_with_new_token(held)
        else:
            self._refuse(held, reason)

    def _error(self, frame: dict[str, Any]) -> None:
        held = self.topics.get(frame.get("topic") or "")
        if frame["code"] != "forbidden" or held is None:
            log.warning("planwire: the gateway says %s: %s", frame["code"], frame.get("message"))
            return
        if held.asked_again or self._tokens.is_fixed:
            self._refuse(held, "forbidden")
        else:
            self._ask_with_new_token(held)

    def _ask_with_new_token(self, held: Held) -> None:
        """The token may be from before the topic was granted: a new one is fetched before the answer is taken as no."""
        held.confirmed = False
        self._after_token.add(held.topic)
        self._token_wake.set()

    def _refuse(self, held: Held, reason: str) -> None:
        # What was held is no longer ours to serve.
        held.snapshot, held.confirmed, held.refused, held.refused_at = None, False, reason, time.monotonic()
        held.fail(TopicRefused(held.topic, reason))
        self._looked()

    # Frames out.

    async def _writer(self, socket: ClientConnection) -> None:
        """Send what is due, at a pace the gateway allows."""
        while True:
            frame = self._next_frame(time.monotonic()) if self._up else None
            if frame is None:
                await _woken(self._wake, min([at for at, _ in self._acks.values()], default=float("inf")))
            else:
                await _send(socket, frame)
                await asyncio.sleep(1 / FRAMES_PER_S)

    def _next_frame(self, now: float) -> dict[str, object] | None:
        while self._asks:
            topic, is_wanted = self._asks.popitem()
            if not is_wanted:
                return {"type": "unsubscribe", "topic": topic}
            held = self.topics.get(topic)
            if held is not None:
                version = held.snapshot.version if held.snapshot is not None else 0
                return {"type": "subscribe", "topic": topic, "version": version}
        if self._nacks:
            topic, (version, reason) = self._nacks.popitem()
            return {"type": "nack", "topic": topic, "version": version, "reason": reason}
        for topic, (at, version) in self._acks.items():
            if at <= now:
                del self._acks[topic]
                return {"type": "ack", "topic": topic, "version": version}
        return None

    async def _keep_token(self, socket: ClientConnection) -> None:
        """Exchange the token in band when that is due. Without a new one the old one goes on, and it is tried again.

        Then ask again for the topics that the old one did not open: not before, or it would be the old one's answer.
        """
        retry_at = 0.0
        while True:
            due = 0.0 if self._after_token else self._refresh_at
            due = max(due, retry_at) if self._up else float("inf")
            if time.monotonic() < due:
                await _woken(self._token_wake, due)
                continue
            # Until the gateway takes the new token, and says when that one ends.
            self._refresh_at = time.monotonic() + REFRESH_RETRY_S
            waiting, self._after_token = self._after_token, set()
            try:
                self._bearer = await self._fetch_token()
            except ConnectionEnded as trouble:
                self._after_token |= waiting
                retry_at = time.monotonic() + REFRESH_RETRY_S
                self._report(str(trouble))
                continue
            retry_at = 0.0
            await _send(socket, {"type": "token", "token": self._bearer})
            self._report("")
            for topic in waiting & self.topics.keys():
                self.topics[topic].asked_again = True
                self._ask(topic)


async def _woken(event: asyncio.Event, at: float) -> None:
    """Return when `event` is set from now on, or when the monotonic clock says `at`."""
    event.clear()
    wait_s = at - time.monotonic()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if wait_s == float("inf") else max(0.0, wait_s)):
            await event.wait()


async def _uncancelled(work: Callable[..., Coroutine[Any, Any, T]], *given: object) -> T:
    """Return what `work` does. A CancelledError that nobody asked for becomes an error: it would end a task unseen."""
    try:
        return await work(*given)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("cancelled from inside") from error


def _text_of(error: BaseException) -> str:
    """Return the error's class and text; of a group, the first one's."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def _send(socket: ClientConnection, frame: dict[str, object]) -> None:
    await socket.send(json.dumps(frame))
