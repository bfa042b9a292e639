"""Every answer of a route is counted once with the status that was sent, and foreseen errors are problem documents."""

from __future__ import annotations

from collections import Counter

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from sync.http.endpoint import Handler, Streaming, not_counted, route
from sync.http.problem import FORESEEN, Problem, exception_handlers
from sync.store.models import StoreError


async def refused_stream(_: Request) -> Response:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        raise Problem("too_many_streams", "full")

    return Streaming(stream)


async def good(_: Request) -> Response:
    return PlainTextResponse("good")


def raising(error: Exception) -> Handler:
    async def handler(_: Request) -> Response:
        raise error

    return handler


@pytest.mark.parametrize(
    ("handler", "status", "code"),
    [
        (good, 200, None),
        (raising(Problem("topic_invalid", "why")), 422, "topic_invalid"),
        (raising(StoreError("redis://secret")), 503, "store_unavailable"),
        (raising(HTTPException(404)), 404, "not_found"),
        (raising(RuntimeError("secret")), 500, "internal"),
        (raising(LookupError("billing's own")), 409, "not_changed"),
        (refused_stream, 429, "too_many_streams"),
    ],
)
async def test_an_answer_is_counted_with_its_status(handler: Handler, status: int, code: str | None) -> None:
    counts: Counter[tuple[str, str, int]] = Counter()

    def count(path: str, method: str, status: int) -> None:
        counts[path, method, status] += 1

    errors = {**FORESEEN, LookupError: lambda error: Problem("not_changed", str(error))}
    app = Starlette(
        routes=[route("/v1/x/{id}", "GET", handler, count, errors)], exception_handlers=exception_handlers()
    )
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://door") as client:
        answer = await client.get("/v1/x/1")
    assert answer.status_code == status
    assert counts == {("/v1/x/{id}", "GET", status): 1}
    if code is not None:
        assert answer.json()["code"] == code
        assert "secret" not in answer.text


async def test_a_line_break_in_a_path_is_a_character_like_others() -> None:
    async def shown(request: Request) -> Response:
        return PlainTextResponse(request.path_params["topic"])

    app = Starlette(routes=[route("/v1/state/{topic:path}", "GET", shown, not_counted)])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as http:
        assert (await http.get("/v1/state/tenant:two%0Alines")).text == "tenant:two\nlines"
