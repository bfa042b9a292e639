"""A topic as server-sent events: the frames of planwire.v1 over plain HTTP."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator

import anyio
from sse_starlette.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.reads import PROBLEMS, TOPIC, Readers
from gateway.auth.claims import Claims
from gateway.hub.topic import LiveTopic
from gateway.node import Node
from gateway.ws import protocol
from sync.http.endpoint import Streaming
from sync.http.openapi import Answer, Operation
from sync.http.parameters import Header
from sync.http.problem import Problem

POLL_S = 0.5
"""Interval at which an open stream checks its token, revocations, the bus and whether the process is stopping."""

STREAM_HEARTBEAT_MAX_S = 15.0
"""Maximum time between two heartbeats of a stream. It is fixed because a stream has no welcome frame to announce it."""

OPEN_TIMEOUT_S = 2.0
"""Maximum wait for the topic's state before the stream is answered with 503."""

_VERSION = re.compile(r"[0-9]{1,16}")


class Events:
    """The route of event streams."""

    def __init__(self, node: Node, readers: Readers) -> None:
        self._node = node
        self._readers = readers

    @Operation(
        "GET",
        "/v1/state/{topic:path}/events",
        "readEvents",
        "The same as server-sent events: snapshot (id: the version), current, heartbeat, gone, bye;"
        " the data are the frames of planwire.v1.",
        {200: Answer("The stream; it ends with the token.", {"type": "string"}, media_type="text/event-stream")},
        PROBLEMS,
        ("token",),
        (TOPIC, Header("Last-Event-ID", "The version held; ignored unless an integer.")),
    )
    async def read(self, request: Request) -> Response:
        """Return the event stream. It counts against the reader limits while it is open."""
        topic, claims = self._readers.admit(request)
        held = request.headers.get("last-event-id", "")
        version = int(held) if _VERSION.fullmatch(held) else -1

        async def stream(scope: Scope, receive: Receive, send: Send) -> None:
            with self._readers.hold(claims.sub), self._node.hub.reader(topic) as live:
                if not await live.newer_than(-1, OPEN_TIMEOUT_S):
                    raise Problem("store_unavailable", "the topic's state could not be read yet")
                stopping = anyio.Event()
                events = EventSourceResponse(
                    _events(self._node, live, claims, topic, version, stopping),
                    ping=0,  # our own heartbeat events replace ping comments
                    sep="\n",
                    send_timeout=None,  # gateway/server/connections.py ends a stream that is not read
                    shutdown_event=stopping,
                    shutdown_grace_period=self._node.settings.drain_s,
                )
                await events(scope, receive, send)

        return Streaming(stream)


async def _events(
    node: Node, live: LiveTopic, claims: Claims, topic: str, held: int, stopping: anyio.Event
) -> AsyncIterator[bytes]:
    """Yield the frames of planwire.v1 as encoded events. `held`: the version the browser has; -1 for none."""
    hub, settings = node.hub, node.settings
    loop = asyncio.get_running_loop()
    heartbeat_s = min(settings.heartbeat_s, STREAM_HEARTBEAT_MAX_S)
    fresh, beat_at, behind_since = hub.fresh, loop.time() + heartbeat_s, 0.0
    yield b": planwire\nretry: %d\n\n%b" % (settings.reconnect_min_ms, _heartbeat(node))
    if live.known and live.version == held:
        yield _event("current", protocol.current(topic, held))
    while True:
        is_told_erased = live.known and live.erased and live.version == held
        is_newer = not is_told_erased and await live.newer_than(held, POLL_S)
        reason = "erased" if is_told_erased else _ended(node, claims, topic)
        if reason:
            yield _event("gone", protocol.gone(topic, reason))
            return
        if node.metrics.draining or stopping.is_set():
            # Streams end at random moments within the drain, so that clients do not all reconnect at once.
            await asyncio.sleep(random.uniform(0, max(0.0, settings.drain_s - 2 * POLL_S)))  # noqa: S311 - jitter
            yield b"retry: %d\n%b" % (settings.reconnect_min_ms, _event("bye", protocol.bye(settings.reconnect_min_ms)))
            return
        if is_newer:
            held = live.version
            yield _event("snapshot", protocol.snapshot(topic, held, live.state, live.cause), held)
        elif live.known and live.version < held:
            # The browser has a newer version than the hub. Wait one sweep interval for the hub to find or restore it;
            # after that the version counts as lost, and the browser is reset.
            behind_since = behind_since or loop.time()
            if loop.time() - behind_since > settings.sweep_s:
                hub.want_reconcile(topic, held)
                behind_since, held = 0.0, live.version
                frame = protocol.snapshot(topic, held, live.state, live.cause, reset=True)
                yield _event("snapshot", frame, held)
        else:
            behind_since = 0.0
        if hub.fresh != fresh or loop.time() >= beat_at:
            fresh, beat_at = hub.fresh, loop.time() + heartbeat_s
            yield _heartbeat(node)


def _ended(node: Node, claims: Claims, topic: str) -> str:
    """Return why the token no longer opens the topic; empty while it does."""
    if claims.is_expired(time.time()):
        return "expired"
    revoked = node.auth.revocations
    return "revoked" if revoked.is_revoked(claims) or revoked.is_revoked(claims, topic) else ""


def _heartbeat(node: Node) -> bytes:
    hub = node.hub
    return _event("heartbeat", protocol.heartbeat(time.time_ns() // 1000, hub.fresh, hub.verified_at_us))


def _event(name: str, frame: bytes, version: int | None = None) -> bytes:
    """Return one encoded event. The frame is compact JSON, so it has no line breaks."""
    identity = b"" if version is None else b"id: %d\n" % version
    return b"event: %b\n%bdata: %b\n\n" % (name.encode(), identity, frame)
