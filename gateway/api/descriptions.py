"""The descriptions of the API and of the sockets' protocol, as `make docs` writes them."""

from __future__ import annotations

from pathlib import Path

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.access import Gateway
from gateway.api.rate_limits import AddressRates
from sync.http.openapi import Answer, Operation

_SOURCE = Path(__file__).parents[1]
FOLDER = next(folder for folder in (_SOURCE / "_docs", _SOURCE.parent / "docs") if folder.is_dir())
"""The documents: packed beside this package in a wheel, in docs/ in a checkout."""


class Descriptions:
    """The routes."""

    def __init__(self, gateway: Gateway) -> None:
        self._rates = AddressRates(gateway.settings)
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
