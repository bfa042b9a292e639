"""Every route of the gateway's HTTP API. The process mounts them beside the intake, the console and the demo."""

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
"""The documents: packed beside this package in a wheel, in docs/ in a checkout."""


class Descriptions:
    """The descriptions of the API and of the sockets' protocol, as `make docs` writes them."""

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
        """Answer the description of the HTTP API."""
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
        """Answer the description of the sockets."""
        return self._answer(request, self._asyncapi)

    def _answer(self, request: Request, document: bytes) -> Response:
        self._rates.spend(request)
        return Response(document, headers={"Cache-Control": "public, max-age=300"}, media_type="application/json")


DECLARING = (Events, States, Publishing, Revoking, Health, Descriptions)
"""The classes whose methods declare the API's operations. Events first: its suffix would be part of States' topic."""


def routes(node: Node) -> list[Route]:
    """Return the routes; their answers are counted in the gateway's metrics."""
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
