"""Routes of the demo page: its files, its tokens, and the simulator's actions and lists.

They exist in development only, and answer only requests from this machine, because their tokens open any tenant.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import orjson
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import Receive, Scope, Send

from gateway.api.access import is_local
from gateway.auth.tokens import mint
from gateway.settings import GatewaySettings
from planwire_client.core.topic import TopicError, topic
from planwire_client.http import NO_ANSWER
from sync.http.body import read_json
from sync.http.problem import Problem
from sync.http.static_files import PAGE_HEADERS, Assets

if TYPE_CHECKING:
    from sync.usage.service import UsageService

PAGES = Path(__file__).parent / "demo"
THEME = Path(__file__).parent.parent / "console" / "static" / "theme.css"
"""The style sheet that the demo shares with the console."""

FRAMEWORKS = frozenset(("react", "vue", "svelte", "openfeature"))
"""Example pages that need a framework bundled by `make examples`."""

TOKEN_TTL_S = 900
SIMULATOR_TIMEOUT_S = 10.0

_ACTION = re.compile(r"[a-z_]{1,32}")
USE_MAX = 1000
"""Units that one click may use."""

LISTS = frozenset(("offers", "purchases"))
"""What the page reads of the simulator."""


def demo_routes(settings: GatewaySettings, usage: UsageService | None = None) -> list[BaseRoute]:
    """Return the routes of the demo. `usage`: counts what its tenants use; None in a process without an intake."""

    async def arguments(request: Request) -> dict[str, object]:
        origin = request.headers.get("origin")
        if origin is not None and not settings.origin_allowed(origin):
            raise Problem("origin_forbidden", "the demo answers its own pages only")
        body = await read_json(request, settings.body_max_bytes, settings.body_timeout_s)
        if not isinstance(body, dict) or not isinstance(body.get("tenant"), str):
            raise Problem("request_invalid", "tenant must be the id of a tenant, as text")
        return body

    async def token(request: Request) -> Response:
        tenant = str((await arguments(request))["tenant"])
        try:
            name = topic("tenant", tenant)
        except TopicError as error:
            raise Problem("request_invalid", str(error)) from None
        if not settings.jwt_secret:
            raise Problem("request_invalid", "the demo needs PLANWIRE_JWT_SECRET")
        secret = settings.jwt_secret[0].get_secret_value()
        text = mint(secret, topics=[name], now=time.time(), ttl_s=TOKEN_TTL_S, sub=f"demo-{tenant}")
        return Response(orjson.dumps({"token": text}), media_type="application/json")

    async def simulate(request: Request) -> Response:
        action = request.path_params["action"]
        body = await arguments(request)
        if not _ACTION.fullmatch(action) or not settings.simulator_url:
            raise Problem("not_found", "no simulator runs here, or it knows no such action")
        return await asked("POST", action, json=body)

    async def listed(request: Request) -> Response:
        what = request.path_params["action"]
        if what not in LISTS or not settings.simulator_url:
            raise Problem("not_found", "no simulator runs here, or it has no such list")
        return await asked("GET", what, params=dict(request.query_params))

    async def asked(method: str, path: str, **options: Any) -> Response:
        url = f"{settings.simulator_url.rstrip('/')}/simulate/{path}"
        try:
            async with httpx2.AsyncClient(timeout=SIMULATOR_TIMEOUT_S, trust_env=False) as client:
                answer = await client.request(method, url, **options)
        except (httpx2.HTTPError, *NO_ANSWER):
            raise Problem("not_ready", "the simulator does not answer") from None
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))

    async def use(request: Request) -> Response:
        body = await arguments(request)
        meter, operation, amount = body.get("meter"), body.get("operation"), body.get("amount")
        if not isinstance(meter, str) or operation not in ("consume", "release"):
            raise Problem("request_invalid", "give a meter, and consume or release as the operation")
        if not isinstance(amount, int) or isinstance(amount, bool) or not 1 <= amount <= USE_MAX:
            raise Problem("request_invalid", f"amount must be a whole number from 1 to {USE_MAX}")
        if usage is None:
            raise Problem("not_found", "this process counts nothing: PLANWIRE_INTAKE is 0")
        from sync.usage.calls import UNLIMITED, Call

        try:
            name = topic("tenant", str(body["tenant"]))
        except TopicError as error:
            raise Problem("request_invalid", str(error)) from None
        counted = await usage.call(Call(name, operation, meter, amount))
        remaining = "unlimited" if counted.remaining == UNLIMITED else counted.remaining
        answer = {"allowed": counted.is_allowed, "remaining": remaining}
        return Response(orjson.dumps(answer), media_type="application/json")

    async def example(request: Request) -> Response:
        name = request.path_params["name"]
        page = PAGES / "examples" / f"{name}.html"
        if name in FRAMEWORKS and not (PAGES / "vendor" / f"{name}.js").exists():
            raise Problem("not_found", "this page needs its framework: run `make examples` (with npm)")
        if not page.is_file():
            raise Problem("not_found", "there is no such example")
        return FileResponse(page, headers=PAGE_HEADERS)

    async def theme(_: Request) -> Response:
        return FileResponse(THEME, headers=PAGE_HEADERS)

    async def index(request: Request) -> Response:
        _require_local(request)
        query = request.url.query
        return RedirectResponse(f"demo/?{query}" if query else "demo/")

    pages = Router(
        [
            Route("/token", token, methods=["POST"]),
            Route("/use", use, methods=["POST"]),
            Route("/simulate/{action}", simulate, methods=["POST"]),
            Route("/simulate/{action}", listed),
            Route("/theme.css", theme),
            Route("/examples/{name:str}.html", example),
            Mount("/", Assets(PAGES, (".html", ".js", ".css", ".svg"))),
        ],
        redirect_slashes=False,
    )

    async def local_pages(scope: Scope, receive: Receive, send: Send) -> None:
        _require_local(HTTPConnection(scope))
        await pages(scope, receive, send)

    return [Route("/demo", index), Mount("/demo", local_pages)]


def _require_local(connection: HTTPConnection) -> None:
    """Answer 404 unless the request comes from this machine and not through a proxy."""
    if not is_local(connection):
        raise HTTPException(404)
