"""JSON in and out, for both halves of the simulator's HTTP."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import Json

BODY_MAX_BYTES = 65_536


async def read_json(request: Request) -> Json:
    """The request's JSON; None where it has no body.

    Raises:
        ApiError: it is too large, or not JSON.
    """
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > BODY_MAX_BYTES:
            raise ApiError("request_body_too_large", f"The request body is larger than {BODY_MAX_BYTES} bytes.")
    try:
        return orjson.loads(raw) if raw else None
    except orjson.JSONDecodeError as error:
        raise ApiError("invalid_json") from error


def json_response(body: Json, status: int = 200, media_type: str = "application/json") -> Response:
    """Return `body` as a response."""
    return Response(orjson.dumps(body), status, media_type=media_type)
