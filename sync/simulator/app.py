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
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sync.simulator import control
from sync.simulator.http import json_response
from sync.simulator.paddle import envelopes
from sync.simulator.paddle import routes as paddle_routes
from sync.simulator.paddle.entities import Body
from sync.simulator.provider import DiskError, Provider, QueueFullError
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
        return json_response({"status": "ok", "subscriptions": len(provider.world.subscriptions)})

    app = Starlette(
        routes=[Route("/healthz", healthz), *control.routes(provider), *paddle_routes.routes(provider, api_keys)],
        exception_handlers={ApiError: _refused, ControlError: _problem, HTTPException: _no_route}
        | dict.fromkeys((QueueFullError, DiskError), _unavailable),
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
                await (_problem_response(problem))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_control(request: Request) -> bool:
    return request.url.path == "/simulate" or request.url.path.startswith("/simulate/")


def _problem_response(problem: ControlError) -> Response:
    body: Body = {"title": problem.code.replace("_", " "), "status": problem.status, "detail": problem.detail}
    return json_response(body | {"code": problem.code}, problem.status, "application/problem+json")


def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ControlError)
    return _problem_response(error)


def _refused(request: Request, error: Exception) -> Response:
    """A refusal in the shape of whoever asked: the control routes answer problems, the API Paddle's errors."""
    assert isinstance(error, ApiError)
    if _is_control(request):
        # 409: the request is fine, the subscription is not in a state for it.
        status = 409 if error.status == 400 and error.code.startswith("subscription_") else error.status
        return _problem_response(ControlError(status, error.code, str(error)))
    return json_response(envelopes.error(error, str(uuid4())), error.status)


def _unavailable(request: Request, error: Exception) -> Response:
    if not _is_control(request):
        return json_response(envelopes.error(ApiError("internal_error", str(error)), str(uuid4())), 503)
    code = "queue_full" if isinstance(error, QueueFullError) else "disk"
    return _problem_response(ControlError(503, code, str(error)))


def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if _is_control(request):
        wrong_method = error.status_code == 405
        detail = "use POST with JSON parameters" if wrong_method else "no such route; GET /simulate lists the actions"
        return _problem_response(ControlError(error.status_code, "no_route", detail))
    refusal = ApiError("not_found", f"no route {request.method} {request.url.path} in the simulator")
    return json_response(envelopes.error(refusal, str(uuid4())), error.status_code)
