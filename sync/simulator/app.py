"""The simulator's HTTP application: the Paddle API under `/`, the control routes under `/simulate`.

It answers on loopback names only, so that no rebound DNS name reaches it.
"""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sync.simulator import control
from sync.simulator.paddle import routes as paddle_routes
from sync.simulator.paddle.routes import error_document
from sync.simulator.provider import Provider
from sync.simulator.world.errors import ApiError, ControlError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""The host names under which the simulator answers."""


def create_app(provider: Provider, api_keys: Mapping[str, Sequence[str]]) -> Starlette:
    """The application. `api_keys`: environment -> its keys; without any, the API answers nobody.

    While its lifespan runs, due changes happen and events are delivered.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with TaskGroup() as tasks:
            running = [tasks.create_task(provider.courier.run()), tasks.create_task(provider.run())]
            yield
            for task in running:
                task.cancel()

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok", "subscriptions": len(provider.world.subscriptions)})

    app = Starlette(
        routes=[Route("/healthz", healthz), *control.routes(provider), *paddle_routes.routes(provider, api_keys)],
        exception_handlers=dict.fromkeys((ApiError, ControlError, HTTPException), _refused),
        lifespan=lifespan,
    )
    app.add_middleware(_LoopbackOnly)
    return app


class _LoopbackOnly:
    """Refuses requests that name a host other than this machine: a rebound DNS name is how a web page would get in."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = Request(scope).headers.get("host", "")
            name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
            if name.lower() not in LOOPBACK:
                problem = ControlError(403, "not_loopback", "the simulator answers on this machine's own names only")
                await _problem(problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _problem(error: ControlError) -> JSONResponse:
    title = error.code.replace("_", " ")
    document = {"title": title, "status": error.status, "detail": error.detail, "code": error.code}
    return JSONResponse(document, error.status, media_type="application/problem+json")


def _refused(request: Request, error: Exception) -> Response:
    """A refusal in the shape of whoever asked: the control routes answer problems, the API Paddle's errors."""
    path = request.url.path
    if path == "/simulate" or path.startswith("/simulate/"):
        return _problem(_control_error(error))
    if isinstance(error, HTTPException):
        refusal = ApiError("not_found", f"no route {request.method} {path} in the simulator")
        return JSONResponse(error_document(refusal, str(uuid4())), error.status_code)
    refusal = error if isinstance(error, ApiError) else ApiError("internal_error", str(error))
    return JSONResponse(error_document(refusal, str(uuid4())), refusal.status)


def _control_error(error: Exception) -> ControlError:
    match error:
        case ControlError():
            return error
        case ApiError():
            # 409: the request is fine, the subscription is not in a state for it.
            status = 409 if error.status == 400 and error.code.startswith("subscription_") else error.status
            return ControlError(status, error.code, str(error))
        case HTTPException(status_code=405):
            return ControlError(405, "no_route", "use POST with JSON parameters")
        case _:
            return ControlError(404, "no_route", "no such route; GET /simulate lists the actions")
