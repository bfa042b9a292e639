"""A small Polar on loopback: the part of its API that is asked, by the same rules of paging, errors and changes."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sync.billing.catalog.watcher import EXAMPLE
from sync.billing.providers.base import RateLimiter
from sync.billing.providers.polar.client import VERSION, PolarClient
from sync.billing.providers.rate_limit import LocalRateLimiter
from sync.core import instants
from tests.support.asgi import serving
from tests.support.polar_bodies import PRODUCTS, at, price, subscription

KEY = "polar_oat_key"
PAGE_MAX = 100


def catalog(directory: Path) -> Path:
    """The example catalog, sold through Polar too."""
    lines = []
    for line in EXAMPLE.read_text().splitlines():
        section = line.strip().strip("[]").partition(".")[2] if line.startswith("[") else ""
        lines.append(line)
        if section in PRODUCTS:
            lines.append(f'products.polar.live = ["{PRODUCTS[section]}"]')
    path = directory / "polar.toml"
    path.write_text("\n".join(lines))
    return path


@dataclass
class Polar:
    """An organization at `url`. `asked`: method and path with query of every call; `bodies`: of its changes.

    `page_max`: no page is larger.
    `throttled`: how many calls more are answered 429, with `retry_after` if there is one; `failing`: the same with 500.
    `refusals`: (status, error) of the next changes.
    `endpoints`: of its webhooks; `deliveries`: what was sent to each, by its id.
    """

    url: str = ""
    page_max: int = PAGE_MAX
    throttled: int = 0
    retry_after: str | None = "1"
    failing: int = 0
    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    customers: dict[str, dict[str, Any]] = field(default_factory=dict)
    orders: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[tuple[int, str]] = field(default_factory=list)
    endpoints: list[dict[str, Any]] = field(default_factory=lambda: [endpoint()])
    deliveries: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def add(self, tenant: str | None = "acme", product: str = "pro", **fields: Any) -> str:
        """Make a subscription and its customer; return its id."""
        made = subscription(tenant, product, **{"id": str(uuid.uuid4()), **fields})
        self.customers[made["customer_id"]] = made["customer"]
        self.subscriptions[made["id"]] = made
        return str(made["id"])

    def change(self, subscription_id: str, **fields: Any) -> dict[str, Any]:
        """Change fields; return the subscription."""
        self.subscriptions[subscription_id] |= {"modified_at": at(), **fields}
        return self.subscriptions[subscription_id]

    def deliver(self, body: bytes, ago_s: float = 90.0, to: str = "", **fields: Any) -> str:
        """Note an attempt to send an event, so many seconds ago; return the event's id, the `webhook-id`."""
        event = {"id": str(uuid.uuid4()), "payload": body.decode(), "type": orjson.loads(body)["type"], **fields}
        made = {"id": str(uuid.uuid4()), "created_at": at(ago_s), "succeeded": False, "webhook_event": event}
        self.deliveries.append((to or self.endpoints[0]["id"], made))
        return str(event["id"])

    def api(self, rate_limiter: RateLimiter | None = None, timeout_s: float = 5.0, key: str = KEY) -> PolarClient:
        """A client of its API."""
        return PolarClient("live", key, self.url, rate_limiter or LocalRateLimiter(1_000, 1_000), timeout_s=timeout_s)

    async def serve(self, request: Request) -> Response:
        """Answer any call."""
        query = f"?{request.url.query}" if request.url.query else ""
        self.asked.append(f"{request.method} {request.url.path}{query}")
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return _error(401, "Unauthorized", "Unauthorized")
        assert request.headers["polar-version"] == VERSION
        if self.throttled:
            self.throttled -= 1
            headers = {"Retry-After": self.retry_after} if self.retry_after else None
            return Response(b'"Rate limit exceeded"', 429, headers)
        if self.failing:
            self.failing -= 1
            return Response(b"<html>", 500)
        _, _, kind, id = request.url.path.split("/")
        if kind == "subscriptions" and not id:
            assert request.query_params["sorting"] == "started_at"
            return self._page(request, sorted(self.subscriptions.values(), key=lambda one: str(one["started_at"])))
        if kind == "webhooks":
            return self._page(request, self.endpoints if id == "endpoints" else self._deliveries(request))
        if kind == "orders" and not id:
            assert request.query_params["sorting"] == "created_at"
            whose = request.query_params.get("customer_id")
            found = [one for one in self.orders if whose in (None, one["customer_id"])]
            return self._page(request, sorted(found, key=lambda one: str(one["created_at"])))
        known = {"subscriptions": self.subscriptions, "customers": self.customers}[kind].get(id)
        if known is None:
            return _error(404, "ResourceNotFound", "Not found")
        if request.method == "PATCH":
            return self._update(known, orjson.loads(await request.body()))
        return JSONResponse(known)

    def _deliveries(self, request: Request) -> list[dict[str, Any]]:
        query = request.query_params
        begins, ends = instants.parse(query["start_timestamp"]), instants.parse(query["end_timestamp"])
        found = [made for to, made in self.deliveries if to in query.getlist("endpoint_id")]
        found = [made for made in found if begins < instants.parse(made["created_at"]) < ends]
        return sorted(found, key=lambda made: instants.parse(made["created_at"]), reverse=True)

    def _page(self, request: Request, every: list[dict[str, Any]]) -> Response:
        query = request.query_params
        size, page = min(int(query["limit"]), self.page_max), int(query["page"])
        last = -(-len(every) // size)
        shown = every[size * (page - 1) : size * page]
        return JSONResponse({"items": shown, "pagination": {"total_count": len(every), "max_page": last}})

    def _update(self, known: dict[str, Any], body: dict[str, Any]) -> Response:
        self.bodies.append(body)
        if self.refusals:
            status, error = self.refusals.pop(0)
            return _error(status, error, "It is refused")
        assert body.pop("proration_behavior") in ("invoice", "prorate")
        ((name, value),) = body.items()
        if name == "product_id":
            product = next((key for key, id in PRODUCTS.items() if id == value), None)
            if product is None:
                return _error(422, "RequestValidationError", "Product does not exist.")
            return JSONResponse(self.change(known["id"], product_id=value, prices=[price(product)]))
        assert known[name] is not None
        return JSONResponse(self.change(known["id"], **{name: value}))


def endpoint(url: str = "https://billing.example.com/webhooks/polar", **fields: Any) -> dict[str, Any]:
    """An endpoint of its webhooks."""
    return {"id": str(uuid.uuid4()), "url": url, "format": "raw", "enabled": True, **fields}


def _error(status: int, error: str, detail: str) -> JSONResponse:
    return JSONResponse({"error": error, "detail": detail}, status)


@asynccontextmanager
async def organization() -> AsyncIterator[Polar]:
    """An organization on a loopback port of the OS's choice."""
    polar = Polar()
    app = Starlette(routes=[Route("/{path:path}", polar.serve, methods=["GET", "PATCH"])])
    async with serving(app) as polar.url:
        yield polar
