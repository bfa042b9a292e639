"""Reading a topic's state over HTTP, at once or after waiting for a version."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping

from pydantic import ConfigDict, Field, JsonValue
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.access import require_claims
from gateway.api.publish_request import CAUSE_TEXT_MAX
from gateway.api.reads import PROBLEMS, TOPIC, Readers
from gateway.hub.topic import LiveTopic
from gateway.node import Node
from planwire_client.core.headers import VERSION_HEADER
from planwire_client.core.limits import EVENT_ID_MAX, VERSION_MAX
from planwire_client.core.topic import tenant_of
from sync.http.fields import TIME, TOPIC_PATTERN, Model
from sync.http.openapi import VERSION, Answer, Operation
from sync.http.parameters import Header, QueryInteger
from sync.http.problem import Problem
from sync.store.models import Snapshot

LOOK_S, LOOK_MAX_S = 0.05, 1.0
"""First and longest pause between checks whether the source has reported that it has no state; each pause doubles."""

MIN_VERSION = QueryInteger(
    "min_version", "Least version wanted; 504 behind where it is not there.", maximum=VERSION_MAX
)
WAIT_MS = QueryInteger("wait_ms", "How long to wait for it, or for the source; cut to 30 s.", maximum=VERSION_MAX)
ETAG = {"ETag": ("Stands for this version in this form.", "string")}


class WrittenCause(Model):
    """Why a version was made; what else is known of it depends on who made it."""

    model_config = ConfigDict(extra="allow")

    source: str | None = Field(None, min_length=1, max_length=CAUSE_TEXT_MAX)
    event_id: str | None = Field(None, min_length=1, max_length=EVENT_ID_MAX)
    event_type: str | None = Field(None, min_length=1, max_length=CAUSE_TEXT_MAX)
    occurred_at: str | None = Field(None, description="RFC 3339", json_schema_extra=TIME)
    received_at: str | None = Field(None, description="RFC 3339", json_schema_extra=TIME)


class State(Model):
    """A topic's newest committed version. Without state: version 0 and state null."""

    topic: str = Field(pattern=TOPIC_PATTERN, examples=["tenant:acme", "sandbox/tenant:acme"])
    version: int = Field(ge=0, le=VERSION_MAX, description="Microseconds since 1970; strictly rises per topic.")
    state: JsonValue
    private: JsonValue = Field(None, description="The backend-only part; only for tokens with scope private.")
    cause: WrittenCause | None = None


class States:
    """The route of states."""

    def __init__(self, node: Node, readers: Readers) -> None:
        self._node = node
        self._readers = readers

    @Operation(
        "GET",
        "/v1/state/{topic:path}",
        "readState",
        "A topic's state, at once or once it is new enough.",
        {
            200: Answer("The newest version.", State, ETAG | VERSION),
            304: Answer("What If-None-Match names is the newest.", headers=ETAG),
        },
        (*PROBLEMS, "request_invalid", "behind"),
        ("token",),
        (TOPIC, MIN_VERSION, WAIT_MS, Header("If-None-Match", "An ETag held.")),
    )
    async def read(self, request: Request) -> Response:
        """Return the newest version, after waiting for `min_version` if asked to."""
        node = self._node
        topic, claims = self._readers.admit(request)
        wanted = MIN_VERSION.read(request)
        wait_s = min(WAIT_MS.read(request), node.settings.wait_max_ms) / 1000
        snapshot = await node.read(topic)
        is_unhydrated = not snapshot.version and bool(node.settings.source_url) and not tenant_of(topic)
        if is_unhydrated:
            await node.store.request(node.store.keys.hydrate, [topic])
        if wait_s and (snapshot.version < wanted or is_unhydrated):
            with self._readers.hold(claims.sub), node.hub.reader(topic) as live:
                if wanted:
                    await _while_connected(request, live.newer_than(wanted - 1, wait_s))
                else:
                    await _while_connected(request, _hydrated(node, live, topic, wait_s))
            claims = require_claims(node, request, topic)  # the token may have ended meanwhile
            # Read from the store, because the hub does not have the private part.
            snapshot = await node.read(topic)
        if snapshot.version < wanted:
            version = {"version": snapshot.version}
            headers = {VERSION_HEADER: str(snapshot.version)}
            raise Problem("behind", f"version {wanted} is not there yet", headers=headers, extra=version)
        return _state_response(request, snapshot, private="private" in claims.scope)


async def _while_connected(request: Request, work: Coroutine[object, object, object]) -> None:
    """Await `work`; cancel it if the client disconnects.

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


async def _hydrated(node: Node, live: LiveTopic, topic: str, timeout_s: float) -> None:
    """Wait until the topic has a state or the source has reported that it has none; at most `timeout_s` seconds."""
    until = time.monotonic() + timeout_s
    look_s = LOOK_S
    while (left_s := until - time.monotonic()) > 0:
        if await live.newer_than(0, min(look_s, left_s)) or await node.store.is_absent(topic):
            return
        look_s = min(look_s * 2, LOOK_MAX_S)


def _state_response(request: Request, snapshot: Snapshot, *, private: bool) -> Response:
    # The private part may change without a new version, but never without a new rev.
    tag = f'"{snapshot.rev}p"' if private else f'"{snapshot.version}"'
    headers = {
        "ETag": tag,
        VERSION_HEADER: str(snapshot.version),
        "Cache-Control": "private, no-cache",
        "Vary": "Authorization",
    }
    # Version 0 means "no state" and gets no 304: its tag would be the same before and after a flush of the store.
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
