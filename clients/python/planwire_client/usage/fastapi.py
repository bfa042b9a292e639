"""Counts the requests of single FastAPI routes: a dependency, and the answers to requests that do not fit.

app = FastAPI()
install(app)

@app.post("/images")
async def image(counted: Annotated[Counted, Depends(metered(usage, "images", tenant))]) -> ...
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import Depends, FastAPI, HTTPException, Request, Response

from planwire_client.usage.answers import Counted
from planwire_client.usage.asgi import counted_or_unknown
from planwire_client.usage.client import AsyncUsage
from planwire_client.usage.denial import Denial, denial, rate_limit_headers


class UsageHTTPException(HTTPException):
    """The request's units may not be used: 429, or 503 if that is not known. `install` makes it a problem document."""

    def __init__(self, answer: Denial) -> None:
        headers = {name: value for name, value in answer.headers.items() if name != "Content-Type"}
        super().__init__(answer.status, orjson.loads(answer.body)["detail"], headers)
        self.answer = answer


def metered(
    usage: AsyncUsage | Callable[[Request], AsyncUsage], meter: str, tenant: Callable[..., Any], amount: int = 1
) -> Callable[..., Awaitable[Counted]]:
    """Return a dependency that counts `amount` units of a request, and says in headers what is left.

    Args:
        usage: the client, or a function that takes it from the request's application.
        meter: the meter's key in the catalog.
        tenant: a dependency that returns the tenant's topic, by the application's own authentication.
    """

    async def counted(request: Request, response: Response, tenant: str = Depends(tenant)) -> Counted:
        client = usage if isinstance(usage, AsyncUsage) else usage(request)
        found = await counted_or_unknown(client, tenant, meter, amount)
        if not found.allowed:
            raise UsageHTTPException(denial(found, meter, time.time(), amount))
        response.headers.update(rate_limit_headers(found, time.time()))
        return found

    return counted


def install(app: FastAPI) -> None:
    """Answer requests that do not fit with a problem document."""
    app.add_exception_handler(UsageHTTPException, _answer)


async def _answer(request: Request, error: Exception) -> Response:
    assert isinstance(error, UsageHTTPException)
    return Response(error.answer.body, error.answer.status, error.answer.headers)
