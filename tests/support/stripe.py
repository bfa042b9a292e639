"""A small Stripe on loopback: the part of its API that is asked, by the same rules of paging, errors and forms.

Lists begin with the newest; `starting_after` and `ending_before` go from there; a subscription shows ITEMS_SHOWN of its
items. Checked against the official SDK's own client, not only against ours.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sync.billing.catalog.watcher import EXAMPLE
from sync.billing.providers.base import RateLimiter
from sync.billing.providers.rate_limit import LocalRateLimiter
from sync.billing.providers.stripe.client import StripeClient
from tests.support import stripe_invoices
from tests.support.asgi import serving

KEY = "sk_live_key"
ITEMS_SHOWN = 10
LINES_SHOWN = 10
PAYMENT_LISTS = ("/v1/invoices", "/v1/refunds", "/v1/disputes", "/v1/charges", "/v1/invoice_payments")
PRICES = {"basic": "price_basic", "pro": "price_pro", "audit": "price_audit"}


def catalog(directory: Path) -> Path:
    """The example catalog, sold through Stripe too."""
    lines = []
    for line in EXAMPLE.read_text().splitlines():
        section = line.strip().strip("[]").partition(".")[2] if line.startswith("[") else ""
        lines.append(line)
        if section in PRICES:
            lines.append(f'prices.stripe.live = ["{PRICES[section]}"]')
    path = directory / "stripe.toml"
    path.write_text("\n".join(lines))
    return path


@dataclass
class Stripe:
    """An account at `url`. `customers`: id -> metadata; `asked`: method and path with query of every call.

    `sessions`: id -> checkout session. `happened`, `billed`: the events about subscriptions, and about invoices.
    `pending`, `credit`: id of a subscription -> the lines that its next invoice has besides its own, and what its
    customer has as a credit.
    `paid`: path of a list -> what it has: invoices, refunds, disputes, charges, payments of invoices, oldest first.
    `connected`: id of a subscription, customer or session -> the connected account that it is of; else of ours.

    `page_max`: no page is larger.
    `throttled`: how many calls more are answered 429, with `retry_after` if there is one; `failing`: the same with 500.
    `before_answer`: awaited with each request's path, once the answer is made and before it is sent.
    """

    url: str = ""
    page_max: int = 100
    throttled: int = 0
    retry_after: str | None = "1"
    failing: int = 0
    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    customers: dict[str, dict[str, Any]] = field(default_factory=dict)
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    paid: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    connected: dict[str, str] = field(default_factory=dict)
    happened: list[dict[str, Any]] = field(default_factory=list)
    billed: list[dict[str, Any]] = field(default_factory=list)
    pending: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    credit: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refusals: list[dict[str, Any]] = field(default_factory=list)
    before_answer: Callable[[str], Awaitable[None]] | None = None
    _made: int = 0

    def add(self, tenant: str | None = "acme", price: str = "price_pro", quantity: int = 1, **fields: Any) -> str:
        """Make a subscription; return its id."""
        self._made += 1
        now = int(time.time())
        subscription_id = f"sub_{self._made:06d}"
        body = {
            "id": subscription_id,
            "object": "subscription",
            "livemode": True,
            "status": "active",
            "customer": f"cus_{self._made:06d}",
            "metadata": {} if tenant is None else {"tenant_id": tenant},
            "cancel_at": None,
            "cancel_at_period_end": False,
            "trial_end": None,
            "created": now,
            "items": {"object": "list", "has_more": False, "data": []},
            **fields,
        }
        self.subscriptions[subscription_id] = body
        self.add_item(subscription_id, price, quantity)
        self.happen("created", subscription_id)
        return subscription_id

    def add_item(self, subscription_id: str, price: str, quantity: int = 1) -> None:
        """Add a line."""
        self._made += 1
        now = int(time.time())
        self.subscriptions[subscription_id]["items"]["data"].append(
            {
                "id": f"si_{self._made:06d}",
                "object": "subscription_item",
                "price": {"id": price, "object": "price"},
                "quantity": quantity,
                "current_period_start": now - 86_400,
                "current_period_end": now + 20 * 86_400,
            }
        )

    def add_session(self, subscription_id: str | None, **fields: Any) -> str:
        """Make the checkout session that has made a subscription (None: it is open); return its id."""
        self._made += 1
        session_id = f"cs_live_{self._made:06d}"
        self.sessions[session_id] = {
            "id": session_id,
            "object": "checkout.session",
            "livemode": True,
            "mode": "subscription",
            "status": "complete" if subscription_id else "open",
            "payment_status": "paid" if subscription_id else "unpaid",
            "created": int(time.time()),
            "customer": self.subscriptions[subscription_id]["customer"] if subscription_id else None,
            "subscription": subscription_id,
            "client_reference_id": None,
            "metadata": {},
            **fields,
        }
        return session_id

    def change(self, subscription_id: str, **fields: Any) -> dict[str, Any]:
        """Change fields; return the event."""
        self.subscriptions[subscription_id].update(fields)
        return self.happen("updated", subscription_id)

    def happen(self, what: str, subscription_id: str, created: int | None = None) -> dict[str, Any]:
        """Return the event that tells of a subscription as it is now."""
        event = {
            "id": f"evt_{len(self.happened) + 1:06d}",
            "object": "event",
            "type": f"customer.subscription.{what}",
            "created": int(time.time()) if created is None else created,
            "livemode": True,
            "data": {"object": json.loads(json.dumps(self.shown(subscription_id)))},
        }
        self.happened.append(event)
        return event

    def thin(self, subscription_id: str, event_id: str = "evt_thin", kind: str = "updated") -> bytes:
        """The body of a thin event about a subscription."""
        return json.dumps(
            {
                "id": event_id,
                "object": "v2.core.event",
                "type": f"v1.customer.subscription.{kind}",
                "created": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
                "livemode": True,
                "related_object": {
                    "id": subscription_id,
                    "type": "subscription",
                    "url": f"/v1/subscriptions/{subscription_id}",
                },
            }
        ).encode()

    def shown(self, subscription_id: str) -> dict[str, Any]:
        """The subscription object, with the first of its items."""
        body = self.subscriptions[subscription_id]
        items = body["items"]["data"]
        return {**body, "items": {**body["items"], "data": items[:ITEMS_SHOWN], "has_more": len(items) > ITEMS_SHOWN}}

    def api(self, rate_limiter: RateLimiter | None = None, timeout_s: float = 5.0, key: str = KEY) -> StripeClient:
        """A client of its API."""
        return StripeClient("live", key, self.url, rate_limiter or LocalRateLimiter(1_000, 1_000), timeout_s=timeout_s)

    async def serve(self, request: Request) -> Response:
        """Answer any call."""
        query = f"?{request.url.query}" if request.url.query else ""
        account = request.headers.get("stripe-account")
        self.asked.append(f"{request.method} {request.url.path}{query}{f' of {account}' if account else ''}")
        response = self._answer(request, dict(parse_qsl((await request.body()).decode(), keep_blank_values=True)))
        if self.before_answer is not None:
            await self.before_answer(request.url.path)
        return response

    def _answer(self, request: Request, form: dict[str, str]) -> Response:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return _error(401, "invalid_request_error", None, "Invalid API Key provided")
        if not request.headers.get("stripe-version"):
            return _error(400, "invalid_request_error", None, "no Stripe-Version")
        if self.throttled:
            self.throttled -= 1
            headers = {"Retry-After": self.retry_after} if self.retry_after else None
            return _error(429, "invalid_request_error", "rate_limit", "Too many requests", headers)
        if self.failing:
            self.failing -= 1
            return _error(500, "api_error", None, "Something went wrong")
        path, query = request.url.path, request.query_params
        id = query.get("subscription") or form.get("subscription") or path.rpartition("/")[2]
        is_one = path.count("/") == (4 if path.startswith("/v1/checkout/") else 3)
        if is_one and self.connected.get(id, "") != request.headers.get("stripe-account", ""):
            return _missing(f"No such object: '{id}'")
        if path == "/v1/subscriptions":
            assert query.get("status") == "all"
            return self._page([self.shown(one) for one in reversed(self.subscriptions)], request)
        if path == "/v1/subscription_items":
            return self._page(self.subscriptions[query["subscription"]]["items"]["data"], request)
        if path == "/v1/events":
            kinds = [value for name, value in query.multi_items() if name.startswith("types[")]
            since = int(query.get("created[gte]", "0"))
            assert len(kinds) <= 20
            told = (*self.happened, *self.billed)
            events = [one for one in told if one["type"] in kinds and one["created"] >= since]
            return self._page(events[::-1], request)
        if path == "/v1/invoices" and "subscription" in query:
            made = {one["data"]["object"]["id"]: one["data"]["object"] for one in self.billed}
            since, whose = int(query.get("created[gte]", "0")), query["subscription"]
            bills = [each for each in made.values() if each["created"] >= since and _payer(each) == whose]
            return self._page(bills[::-1], request)
        if path == "/v1/invoices/create_preview":
            return self.preview(form)
        if path == "/v1/checkout/sessions" or path in PAYMENT_LISTS:
            return self._page(self._paid(path, request), request)
        if path.endswith("/line_items"):
            return self._page(self.sessions[path.split("/")[4]]["line_items"]["data"], request)
        if path.startswith("/v1/customers/"):
            customer_id = path.removeprefix("/v1/customers/")
            if customer_id not in self.customers:
                return _missing(f"No such customer: '{customer_id}'")
            return JSONResponse({"id": customer_id, "object": "customer", "metadata": self.customers[customer_id]})
        if path.startswith("/v1/checkout/sessions/"):
            session_id = path.removeprefix("/v1/checkout/sessions/")
            known = self.sessions.get(session_id)
            if known is None:
                return _missing(f"No such checkout.session: {session_id}")
            known = _with_lines(known, "line_items" in query.getlist("expand[]"))
            made = known["subscription"]
            is_expanded = made and "subscription" in query.getlist("expand[]")
            return JSONResponse({**known, "subscription": self.shown(made)} if is_expanded else known)
        subscription_id = path.removeprefix("/v1/subscriptions/")
        if subscription_id not in self.subscriptions:
            return _missing(f"No such subscription: '{subscription_id}'")
        if request.method == "POST":
            if self.refusals:
                return JSONResponse({"error": self.refusals.pop(0)}, 402)
            self.update(subscription_id, form)
        return JSONResponse(self.shown(subscription_id))

    def _paid(self, path: str, request: Request) -> list[dict[str, Any]]:
        """What a list of payments has for a query, the newest first; what it does not expand is left out."""
        query = request.query_params
        expanded = [name.removeprefix("data.") for name in query.getlist("expand[]")]
        entries = list(self.sessions.values()) if path == "/v1/checkout/sessions" else self.paid.get(path, [])
        wanted = {name: query[name] for name in ("customer", "charge", "status") if name in query}
        if path == "/v1/invoice_payments":
            kind = query["payment[type]"]
            entries = [one for one in entries if one["payment"].get(kind) == query[f"payment[{kind}]"]]
        found = []
        for entry in reversed(entries):
            if all(_id(entry.get(name)) == value for name, value in wanted.items()):
                shown = _with_lines(entry, "line_items" in expanded)
                for name in ("payments", "refunds"):
                    shown = shown if name in expanded else {key: shown[key] for key in shown if key != name}
                for name in ("charge", "invoice"):
                    shown = shown if name in expanded or name not in shown else {**shown, name: _id(shown[name])}
                found.append(shown)
        return found

    def preview(self, form: Mapping[str, str]) -> Response:
        """The invoice that a change of items would make: as Stripe's, it does not show the resulting subscription."""
        known = self.subscriptions.get(form.get("subscription", ""))
        if known is None:
            return _missing(f"No such subscription: '{form.get('subscription')}'")
        details = {name: value for name, value in form.items() if name.startswith("subscription_details[")}
        proration = details.pop("subscription_details[proration_behavior]", None)
        at_s = int(details.pop("subscription_details[proration_date]", "0"))
        assert all(name.startswith("subscription_details[items]") for name in details)
        assert proration in ("none", "always_invoice", "create_prorations") if details else proration is None
        items = known["items"]["data"]
        ids = {item["id"] for item in items}
        named = {value for name, value in details.items() if name.endswith("[id]")}
        if not named <= ids:
            return _missing(f"No such subscription item: '{sorted(named - ids)[0]}'")
        after = stripe_invoices.changed(items, details, "subscription_details[items]")
        parts = [] if proration in (None, "none") else stripe_invoices.parts(items, after, at_s or int(time.time()))
        parts = [*self.pending.get(known["id"], ()), *parts]
        lines = parts if proration == "always_invoice" else [*parts, *stripe_invoices.period(after)]
        ends_s = items[0]["current_period_end"]
        credit = self.credit.get(known["id"], 0)
        invoice = stripe_invoices.invoice(known["id"], lines, credit, period_end=ends_s, billing_reason="upcoming")
        return JSONResponse({**invoice, "subscription": known["id"], "asked": form})

    def update(self, subscription_id: str, form: Mapping[str, str]) -> None:
        """Change a subscription's items, and bill or defer what that costs."""
        items = self.subscriptions[subscription_id]["items"]["data"]
        assert form["payment_behavior"] == "error_if_incomplete"
        assert form["proration_behavior"] in ("none", "always_invoice", "create_prorations")
        before, at_s = [dict(item) for item in items], int(form.get("proration_date", time.time()))
        items[:] = stripe_invoices.changed(items, form, "items")
        for item in items:
            if item["id"].startswith("si_new_"):
                self._made += 1
                item["id"] = f"si_{self._made:06d}"
        self.happen("updated", subscription_id)
        parts = [] if form["proration_behavior"] == "none" else stripe_invoices.parts(before, items, at_s)
        self.pending.setdefault(subscription_id, []).extend(parts)
        if form["proration_behavior"] == "always_invoice":
            self.bill(subscription_id, self.pending.pop(subscription_id), "subscription_update", at_s)

    def renew(self, subscription_id: str) -> None:
        """Bill the next period."""
        items = self.subscriptions[subscription_id]["items"]["data"]
        made_s = items[0]["current_period_end"]
        lines = [*self.pending.pop(subscription_id, ()), *stripe_invoices.period(items)]
        for item in items:
            item["current_period_end"] += made_s - item["current_period_start"]
            item["current_period_start"] = made_s
        self.bill(subscription_id, lines, "subscription_cycle", made_s)

    def bill(
        self, subscription_id: str, lines: Sequence[dict[str, Any]], reason: str, made_s: int | None = None
    ) -> None:
        """Make an invoice; the events are its finalization and its payment."""
        self._made += 1
        made_s = int(time.time()) if made_s is None else made_s
        credit, id = self.credit.get(subscription_id, 0), f"in_{self._made:06d}"
        invoice = stripe_invoices.invoice(subscription_id, lines, credit, id=id, billing_reason=reason, created=made_s)
        self.credit[subscription_id] = max(credit - invoice["total"], 0)
        for what in ("finalized", "paid"):
            self.billed.append(
                {
                    "id": f"evt_in_{len(self.billed) + 1:06d}",
                    "object": "event",
                    "type": f"invoice.{what}",
                    "created": made_s,
                    "livemode": True,
                    "data": {"object": invoice},
                }
            )

    def _page(self, entries: list[dict[str, Any]], request: Request) -> Response:
        """A page of a list, whatever order it has."""
        query = request.query_params
        ids = [entry["id"] for entry in entries]
        size = min(int(query.get("limit", "10")), self.page_max)
        start, end = 0, len(entries)
        if after := query.get("starting_after"):
            if after not in ids:
                return _missing(f"No such object: '{after}'")
            start = ids.index(after) + 1
        if before := query.get("ending_before"):
            if before not in ids:
                return _missing(f"No such object: '{before}'")
            end = ids.index(before)
            start = max(0, end - size)
            more = start > 0
        else:
            more = end - start > size
        shown = entries[start : min(end, start + size)]
        return JSONResponse({"object": "list", "url": request.url.path, "has_more": more, "data": shown})


def _payer(invoice: dict[str, Any]) -> str:
    return str(invoice["parent"]["subscription_details"]["subscription"])


def _id(value: Any) -> Any:
    return value.get("id") if isinstance(value, dict) else value


def _with_lines(session: dict[str, Any], shows: bool) -> dict[str, Any]:
    """A checkout session with the first of its lines, or without them."""
    listed = session.get("line_items")
    if listed is None or not shows:
        return {name: value for name, value in session.items() if name != "line_items"}
    lines = listed["data"]
    return {**session, "line_items": {**listed, "data": lines[:LINES_SHOWN], "has_more": len(lines) > LINES_SHOWN}}


def _error(
    status: int, kind: str, code: str | None, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    body = {"type": kind, "message": message} | ({"code": code} if code else {})
    return JSONResponse({"error": body}, status, headers)


def _missing(message: str) -> JSONResponse:
    return _error(404, "invalid_request_error", "resource_missing", message)


@asynccontextmanager
async def account() -> AsyncIterator[Stripe]:
    """An account on a loopback port of the OS's choice."""
    stripe = Stripe()
    app = Starlette(routes=[Route("/{path:path}", stripe.serve, methods=["GET", "POST"])])
    async with serving(app) as stripe.url:
        yield stripe
