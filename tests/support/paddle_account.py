"""A small Paddle account on loopback: its lists of subscriptions, transactions and adjustments, by Paddle's rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.asgi import serving

KEY = "key_live"
PER_PAGE_MAX = {"subscriptions": 200, "transactions": 30, "adjustments": 50}


@dataclass
class PaddleAccount:
    """An account at `url`: what it has, by the name of its list and by id. `asked`: path with query of every call.

    `page_max`: no page is larger. `forbidden`: the lists that the API key may not read.
    """

    url: str = ""
    page_max: int = 200
    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    transactions: dict[str, dict[str, Any]] = field(default_factory=dict)
    adjustments: dict[str, dict[str, Any]] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, str]:
        """What a system needs to ask it."""
        return {"PADDLE_API_KEYS": f"live:{KEY}", "PADDLE_API_URL": self.url, "PADDLE_API_RATE_PER_S": "1000"}

    def has(self, *bodies: dict[str, Any]) -> None:
        """Have what these webhooks are about."""
        for body in bodies:
            kind = body["event_type"].partition(".")[0]
            data = {"origin": "web", **body["data"]} if kind == "transaction" else body["data"]
            getattr(self, f"{kind}s")[data["id"]] = data

    async def serve(self, request: Request) -> Response:
        """Answer any call."""
        self.asked.append(f"{request.url.path}{'?' * bool(request.url.query)}{request.url.query}")
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return _error(403, "forbidden")
        _, kind, *rest = request.url.path.split("/")
        if kind in self.forbidden:
            return _error(403, "forbidden")
        known: dict[str, dict[str, Any]] = getattr(self, kind, {})
        if rest:
            found = known.get(rest[0])
            return _error(404, "not_found") if found is None else JSONResponse({"data": found})
        query = request.query_params
        assert query["order_by"] == "id[ASC]"
        chosen = [
            one
            for id, one in sorted(known.items())
            if id > query.get("after", "")
            if all(one[name] in query[name].split(",") for name in FILTERS if name in query)
        ]
        size = min(int(query["per_page"]), PER_PAGE_MAX[kind], self.page_max)
        last = chosen[:size][-1]["id"] if chosen else ""
        pagination = {"per_page": size, "has_more": len(chosen) > size, "next": f"{self.url}/{kind}?after={last}"}
        return JSONResponse({"data": chosen[:size], "meta": {"pagination": pagination}})


FILTERS = ("status", "origin", "action", "customer_id")


def _error(status: int, code: str) -> JSONResponse:
    error = {"type": "request_error", "code": code, "detail": code, "documentation_url": f"https://paddle.test/{code}"}
    return JSONResponse({"error": error, "meta": {"request_id": "1"}}, status)


@asynccontextmanager
async def paddle_account() -> AsyncIterator[PaddleAccount]:
    """An account on a loopback port of the OS's choice."""
    paddle = PaddleAccount()
    async with serving(Starlette(routes=[Route("/{path:path}", paddle.serve, methods=["GET"])])) as paddle.url:
        yield paddle
