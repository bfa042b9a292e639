"""Reading over HTTP: a topic's state, at once or once it is new enough, and the same as an event stream."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import contextmanager

import anyio
from sse_starlette.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.api.access import Gateway, require_claims
from gateway.api.rate_limits import Rates
from gateway.auth.tokens import Claims
from gateway.hub.hub import Watch
from gateway.ws import protocol
from planwire_client.core.headers import VERSION_HEADER
from planwire_client.core.limits import VERSION_MAX
from planwire_client.core.topic import Topic, TopicError
from sync.http.endpoint import Streaming, route
from sync.http.problem import Problem
from sync.store import hydration_requests
from sync.store.store import Snapshot

STATE_PATH = "/v1/state/{topic:path}"
EVENTS_SUFFIX = "/events"


POLL_S = 0.5
"""How often an open stream looks at its token, its topic's revocation, the bus and the process's end."""

STREAM_HEARTBEAT_MAX_S = 15.0
"""The longest between two heartbeats of a stream: no welcome says how long, so this is what readers count on."""

OPEN_TIMEOUT_S = 2.0
"""How long a stream may take to learn its topic's state before the answer is 503."""

LOOK_S, LOOK_MAX_S = 0.05, 1.0
"""How often a read that waits for the source looks whether that has answered that it has nothing: less and less."""

_INTEGER = re.compile(r"[0-9]{1,16}")


class Readers:
    """Counts open streams and waiting reads, in all and per subject, and refuses more than the settings allow."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._by_subject: Counter[str] = Counter()

    @contextmanager
    def hold(self, subject: str) -> Iterator[None]:
        """Hold one place while open.

        Raises:
            Problem: 429 too_many_streams.
        """
        settings, metrics = self._gateway.settings, self._gateway.metrics
        if metrics.streams >= settings.streams_max or self._by_subject[subject] >= settings.streams_per_subject:
            raise Problem(
                "too_many_streams", "too many streams and waiting reads are open", headers={"Retry-After": "5"}
            )
        metrics.streams += 1
        metrics.streams_opened += 1
        self._by_subject[subject] += 1
        try:
            yield
        finally:
            metrics.streams -= 1
            self._by_subject[subject] -= 1
            if not self._by_subject[subject]:
                del self._by_subject[subject]


def state_routes(gateway: Gateway) -> list[Route]:
    """Return the routes that read."""
    readers = Readers(gateway)
    rates = Rates(gateway.settings.reads_per_s)

    async def read_state(request: Request) -> Response:
        topic = _topic(request.path_params["topic"])
        claims = require_claims(gateway, request, topic)
        rates.spend(claims.sub, time.monotonic())
        wanted = _integer(request, "min_version", VERSION_MAX)
        wait_ms = min(_integer(request, "wait_ms", VERSION_MAX), gateway.settings.wait_max_ms)
        snapshot = await gateway.store.read(topic)
        is_unhydrated = not snapshot.version and bool(gateway.settings.source_url)
        if is_unhydrated:
            await hydration_requests.want(gateway.store, [topic])
        if wait_ms and (snapshot.version < wanted or is_unhydrated):
            with readers.hold(claims.sub):
                async with gateway.hub.watch(topic) as watch:
                    if wanted:
                        await _while_connected(request, watch.newer_than(wanted - 1, wait_ms / 1000))
                    else:
                        await _while_connected(request, _hydrated(gateway, watch, topic, wait_ms / 1000))
            claims = require_claims(gateway, request, topic)  # the token may have ended meanwhile
            # Read again rather than served from the hub: the private part is only here.
            snapshot = await gateway.store.read(topic)
        if snapshot.version < wanted:
            version = {"version": snapshot.version}
            headers = {VERSION_HEADER: str(snapshot.version)}
            raise Problem("behind", f"version {wanted} is not there yet", headers=headers, extra=version)
        return _state_response(request, snapshot, private=claims.has("private"))

    async def read_events(request: Request) -> Response:
        topic = _topic(request.path_params["topic"])
        claims = require_claims(gateway, request, topic)
        rates.spend(claims.sub, time.monotonic())
        held = request.headers.get("last-event-id", "")
        version = int(held) if _INTEGER.fullmatch(held) else -1

        async def stream(scope: Scope, receive: Receive, send: Send) -> None:
            with readers.hold(claims.sub):
                async with gateway.hub.watch(topic) as watch:
                    if await watch.newer_than(-1, OPEN_TIMEOUT_S) is None:
                        raise Problem("store_unavailable", "the topic's state could not be read yet")
                    await _event_source(gateway, watch, claims, topic, version)(scope, receive, send)

        return Streaming(stream)

    return [
        # First: the suffix would otherwise be part of the topic.
        route(STATE_PATH + EVENTS_SUFFIX, "GET", read_events, gateway.metrics.answered),
        route(STATE_PATH, "GET", read_state, gateway.metrics.answered),
    ]


async def _while_connected(request: Request, work: Coroutine[object, object, object]) -> None:
    """Return when `work` has ended; cancel it when the client disconnects.

    Raises:
        Problem: 400 disconnected.
    """
    working, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Problem("disconnected", "the client is gone")
        working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.wait((working, gone))


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _hydrated(gateway: Gateway, watch: Watch, topic: str, timeout_s: float) -> None:
    """Return once the topic has a state, or the source has said that it has none, or after `timeout_s`."""
    until = time.monotonic() + timeout_s
    look_s = LOOK_S
    while (left_s := until - time.monotonic()) > 0:
        if await watch.newer_than(0, min(look_s, left_s)) or await hydration_requests.is_absent(gateway.store, topic):
            return
        look_s = min(look_s * 2, LOOK_MAX_S)


def _topic(name: str) -> str:
    try:
        Topic.parse(name)
    except TopicError as error:
        raise Problem("topic_invalid", str(error)) from None
    return name


def _integer(request: Request, name: str, highest: int) -> int:
    """Return a query parameter, an integer from 0 to `highest`; 0 where it is absent."""
    text = request.query_params.get(name)
    if text is None:
        return 0
    if not _INTEGER.fullmatch(text) or int(text) > highest:
        raise Problem("request_invalid", f"{name} must be an integer from 0 to {highest}")
    return int(text)


def _state_response(request: Request, snapshot: Snapshot, *, private: bool) -> Response:
    # The private form is another representation, so it has another tag.
    tag = f'"{snapshot.version}p"' if private else f'"{snapshot.version}"'
    headers = {
        "ETag": tag,
        VERSION_HEADER: str(snapshot.version),
        "Cache-Control": "private, no-cache",
        "Vary": "Authorization",
    }
    # Version 0 is no version: two topics, or one before and after a flush, must not look the same.
    if snapshot.version and _matches(request.headers, tag):
        return Response(status_code=304, headers=headers)
    body = b'{"topic":"%b","version":%d,"state":%b%b%b}' % (
        snapshot.topic.encode(),
        snapshot.version,
        snapshot.state,
        b',"private":' + snapshot.private if private and snapshot.private else b"",
        b',"cause":' + snapshot.cause if snapshot.cause else b"",
    )
    return Response(body, headers=headers, media_type="application/json")


def _matches(headers: Mapping[str, str], tag: str) -> bool:
    """Whether If-None-Match names `tag` (RFC 9110 section 13.1.2: weak comparison)."""
    given = headers.get("if-none-match", "")
    return given.strip() == "*" or any(one.strip().removeprefix("W/") == tag for one in given.split(","))


def _event_source(gateway: Gateway, watch: Watch, claims: Claims, topic: str, held: int) -> EventSourceResponse:
    stopping = anyio.Event()
    settings = gateway.settings
    return EventSourceResponse(
        _events(gateway, watch, claims, topic, held, stopping),
        # The heartbeats are ours: they say more than a comment.
        ping=0,
        sep="\n",
        # gateway/server/connections.py ends the connection of a stream that is not read.
        send_timeout=None,
        shutdown_event=stopping,
        shutdown_grace_period=settings.drain_s,
    )


async def _events(
    gateway: Gateway, watch: Watch, claims: Claims, topic: str, held: int, stopping: anyio.Event
) -> AsyncIterator[bytes]:
    """Yield the frames of planwire.v1 as events, ready to send; `held` is the version the browser has, -1 for none."""
    hub, settings = gateway.hub, gateway.settings
    loop = asyncio.get_running_loop()
    heartbeat_s = min(settings.heartbeat_s, STREAM_HEARTBEAT_MAX_S)
    fresh, beat_at, behind_since = hub.fresh, loop.time() + heartbeat_s, 0.0
    yield b": planwire\nretry: %d\n\n%b" % (settings.reconnect_min_ms, _heartbeat(gateway))
    if watch.latest.known and watch.latest.version == held:
        yield _event("current", protocol.current(topic, held))
        if watch.latest.erased:
            yield _event("gone", protocol.gone(topic, "erased"))
            return
    while True:
        live = await watch.newer_than(held, POLL_S)
        reason = _ended(gateway, claims, topic)
        if reason:
            yield _event("gone", protocol.gone(topic, reason))
            return
        if gateway.metrics.draining or stopping.is_set():
            # Every stream ends within the drain, none in step with another, and each comes back when it likes.
            await asyncio.sleep(random.uniform(0, max(0.0, settings.drain_s - 2 * POLL_S)))  # noqa: S311 - jitter
            yield b"retry: %d\n%b" % (settings.reconnect_min_ms, _event("bye", protocol.bye(settings.reconnect_min_ms)))
            return
        if live is not None:
            held = live.version
            yield _event("snapshot", protocol.snapshot(topic, live.version, live.state, live.cause), held)
            if live.erased:
                yield _event("gone", protocol.gone(topic, "erased"))
                return
        elif watch.latest.known and watch.latest.version < held:
            # The browser holds more than is known here. One sweep's time to find it or put it back; then it is lost.
            behind_since = behind_since or loop.time()
            if loop.time() - behind_since > settings.sweep_s:
                latest, behind_since = watch.latest, 0.0
                held = latest.version
                hub.want_reconcile(topic)
                frame = protocol.snapshot(topic, held, latest.state, latest.cause, reset=True)
                yield _event("snapshot", frame, held)
        else:
            behind_since = 0.0
        if hub.fresh != fresh or loop.time() >= beat_at:
            fresh, beat_at = hub.fresh, loop.time() + heartbeat_s
            yield _heartbeat(gateway)


def _ended(gateway: Gateway, claims: Claims, topic: str) -> str:
    """Return why the token does not open the topic any more, or empty."""
    if claims.is_expired(time.time()):
        return "expired"
    revoked = gateway.auth.revocations
    return "revoked" if revoked.is_revoked(claims) or revoked.is_revoked(claims, topic) else ""


def _heartbeat(gateway: Gateway) -> bytes:
    hub = gateway.hub
    return _event("heartbeat", protocol.heartbeat(time.time_ns() // 1000, hub.fresh, hub.verified_at_us))


def _event(name: str, frame: bytes, version: int | None = None) -> bytes:
    """Return one event. The frame is compact JSON: it holds no line break."""
    identity = b"" if version is None else b"id: %d\n" % version
    return b"event: %b\n%bdata: %b\n\n" % (name.encode(), identity, frame)
