"""Revoking tokens over HTTP. It needs a publish key with the scope admin."""

from __future__ import annotations

import time
from typing import Annotated

import structlog
from pydantic import Field, JsonValue, WithJsonSchema, with_config
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from gateway.api.access import require_key, require_right
from gateway.api.publish import PROBLEMS
from gateway.api.publish_request import publishable
from gateway.auth import revocation_store
from gateway.auth.claims import TEXT_MAX
from gateway.auth.publish_keys import ANY, Scope
from gateway.auth.revocations import Revocation
from gateway.node import Node
from sync.http.body import json_response, read_json
from sync.http.fields import TOPIC_PATTERN, Model, Reader
from sync.http.openapi import Answer, Operation
from sync.http.problem import Problem

log = structlog.get_logger("gateway.api.routes")

_Claim = Annotated[str, Field(min_length=1, max_length=TEXT_MAX)]


_SHAPES: list[list[JsonValue]] = [["sub"], ["topic"], ["jti"], ["sub", "topic"]]
"""The allowed combinations of members."""


@with_config(
    extra="forbid", json_schema_extra={"oneOf": [{"required": one, "maxProperties": len(one)} for one in _SHAPES]}
)
class Revoke(TypedDict, total=False):
    """What no longer counts if issued before now: a subject, a topic, a token id, or a subject's right to a topic."""

    sub: _Claim
    topic: Annotated[str, WithJsonSchema({"type": "string", "pattern": TOPIC_PATTERN})]
    jti: _Claim


class Revoked(Model):
    """The revocation that is now in force."""

    revoked: Revoke
    at: float = Field(description="Seconds since 1970; tokens issued at or before it are refused.")


_REVOKE = Reader(Revoke)


class Revoking:
    """The route of revocations."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @Operation(
        "POST",
        "/v1/sessions/revoke",
        "revoke",
        "Stop tokens issued before now: send one of sub, topic, jti, or sub and topic together.",
        {200: Answer("In force everywhere within a second.", Revoked)},
        (*PROBLEMS, "topic_invalid", "topic_reserved", "topic_forbidden"),
        ("publishKey",),
        body={"application/json": Revoke},
    )
    async def revoke(self, request: Request) -> Response:
        """Store and announce the revocation, put it in force here, and return it."""
        node, settings = self._node, self._node.settings
        key = require_key(node, request)
        require_right(node, key, Scope.ADMIN)
        body = await read_json(request, settings.body_max_bytes, settings.body_timeout_s)
        now = time.time()
        revocation = node.auth.covering(revocation_of(body, now), now)
        # A subject or a single token may open any topic, so its revocation needs the right to all of them.
        require_right(node, key, Scope.ADMIN, revocation.topic or ANY)
        await revocation_store.announce(
            node.store, revocation, keep_s=settings.revocation_keep_s, limit=settings.revocations_max
        )
        # In force here at once; other gateways get it over the bus. This gateway's own announcement does nothing.
        node.revoke(revocation)
        log.info("revoked", by=key.name, kind=revocation.kind, value=revocation.value)
        return json_response({"revoked": body, "at": revocation.at})


def revocation_of(body: object, at: float) -> Revocation:
    """Return the revocation in a request body: of a subject, a topic, a token id, or a subject's right to a topic.

    Args:
        body: the JSON value.
        at: the instant of the revocation, seconds since 1970.

    Raises:
        Problem: request_invalid, topic_invalid or topic_reserved.
    """
    found = _REVOKE.read(body)
    if "topic" in found:
        publishable(found["topic"])
    match list(found.items()):
        case [(kind, str(value))]:
            return Revocation(kind, value, at)  # type: ignore[arg-type]
        case [_, _] if "jti" not in found:
            return Revocation("sub_topic", f"{found['topic']} {found['sub']}", at)
    raise Problem("request_invalid", "send one of sub, topic, jti, or sub and topic together")
