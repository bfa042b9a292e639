"""All routes of the gateway's HTTP API. The intake, the console and the demo have routes of their own."""

from __future__ import annotations

from pathlib import Path

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.events import Events
from gateway.api.health import Health
from gateway.api.publish import Publishing
from gateway.api.reads import AddressRates, Readers
from gateway.api.revoke import Revoking
from gateway.api.state import States
from gateway.node import Node
from sync.http.endpoint import route
from sync.http.openapi import Answer, Operation, declared

_SOURCE = Path(__file__).parents[1]
FOLDER = next(folder for folder in (_SOURCE / "_docs", _SOURCE.parent / "docs") if folder.is_dir())
"""Folder of the API documents: beside this package in a wheel, docs/ in a checkout."""


class Descriptions:
    """The routes of the OpenAPI and AsyncAPI documents that `make docs` writes."""

    def __init__(self, node: Node) -> None:
        self._rates = AddressRates(node.settings)
        self._openapi, self._asyncapi = (
            orjson.dumps(orjson.loads((FOLDER / name).read_bytes())) for name in ("openapi.json", "asyncapi.json")
        )

    @Operation(
        "GET",
        "/v1/openapi.json",
        "description",
        "This document.",
        {200: Answer("OpenAPI 3.1.", {"type": "object"})},
        ("rate_limited",),
    )
    async def openapi(self, request: Request) -> Response:
        """Return the OpenAPI document of the HTTP API."""
        return self._answer(request, self._openapi)

    @Operation(
        "GET",
        "/v1/asyncapi.json",
        "socketDescription",
        "The description of the sockets' protocol.",
        {200: Answer("AsyncAPI 3.0.", {"type": "object"})},
        ("rate_limited",),
    )
    async def asyncapi(self, request: Request) -> Response:
        """Return the AsyncAPI document of the socket protocol."""
        return self._answer(request, self._asyncapi)

    def _answer(self, request: Request, document: bytes) -> Response:
        self._rates.spend(request)
        return Response(document, headers={"Cache-Control": "public, max-age=300"}, media_type="application/json")


DECLARING = (Events, States, Publishing, Revoking, Health, Descriptions)
"""Classes whose methods are API operations. Events come first: States' path would match its `/events` as a topic."""


def routes(node: Node) -> list[Route]:
    """Return the routes of the API. The node's metrics count their answers."""
    readers = Readers(node)
    holders = (
        *(Events(node, readers), States(node, readers)),
        *(kind(node) for kind in (Publishing, Revoking, Health, Descriptions)),
    )
    return [
        route(operation.path, operation.method, handler, node.metrics.answered)
        for holder in holders
        for operation, handler in declared(holder)
    ]
