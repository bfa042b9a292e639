"""Answers for the operations of the intake in a process without one: 404 that says where to ask."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sync.http.endpoint import Count, route
from sync.http.problem import Problem

PATHS = ("/v1/tenants", "/v1/usage", "/webhooks")
"""Paths below which there are operations of the intake only."""

METHODS = ("GET", "POST", "PUT", "DELETE")


def no_intake_routes(count: Count) -> list[Route]:
    """Return routes that answer what the intake would. `count`: counts answers."""
    return [route(f"{path}/{{path:path}}", method, _absent, count) for path in PATHS for method in METHODS]


async def _absent(request: Request) -> Response:
    raise Problem("not_found", "this process has no intake (PLANWIRE_INTAKE is 0): send this to one that has")
