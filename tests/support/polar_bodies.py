"""Polar's objects, events and signatures, as small as they are valid. Shaped after its API of version 2026-10."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from sync.core import instants

SECRET = "whsec_polar-live-0123456789abcdef"
SANDBOX_SECRET = "whsec_polar-sandbox-0123456789ab"
PRODUCTS = {name: str(uuid.uuid5(uuid.NAMESPACE_DNS, f"product.{name}")) for name in ("basic", "pro", "audit")}
PRICES = {name: str(uuid.uuid5(uuid.NAMESPACE_DNS, f"price.{name}")) for name in ("basic", "pro", "audit")}
DAY_S = 86_400


def id_of(name: str) -> str:
    """The UUID that stands for a name."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def at(ago_s: float = 0.0) -> str:
    """The instant so many seconds ago, in microseconds and RFC 3339."""
    return instants.text((time.time_ns() - int(ago_s * 1e9)) // 1000 * 1000)


def customer(name: str = "acme", **fields: Any) -> dict[str, Any]:
    """A customer, by its name in the seller's system."""
    return {
        "id": id_of(f"customer.{name}"),
        "created_at": at(30 * DAY_S),
        "modified_at": None,
        "metadata": {},
        "external_id": None,
        "email": f"{name}@example.com",
        "email_verified": False,
        "type": "individual",
        "name": name,
        "organization_id": id_of("organization"),
        "deleted_at": None,
        **fields,
    }


def price(name: str = "pro", **fields: Any) -> dict[str, Any]:
    """A price that recurs."""
    made = {"id": PRICES.get(name, name), "amount_type": "fixed", "price_amount": 2900, "price_currency": "usd"}
    return {**made, "product_id": PRODUCTS.get(name, name), "is_archived": False, **fields}


def subscription(tenant: str | None = "acme", product: str = "pro", **fields: Any) -> dict[str, Any]:
    """A subscription of a tenant's customer."""
    who = tenant or "nobody"
    buyer = fields.pop("customer", customer(who))
    return {
        "id": id_of(f"subscription.{who}"),
        "created_at": at(10 * DAY_S),
        "modified_at": at(),
        "amount": 2900,
        "currency": "usd",
        "recurring_interval": "month",
        "recurring_interval_count": 1,
        "status": "active",
        "current_period_start": at(10 * DAY_S),
        "current_period_end": at(-20 * DAY_S),
        "trial_start": None,
        "trial_end": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "started_at": at(10 * DAY_S),
        "ends_at": None,
        "ended_at": None,
        "pause_at_period_end": False,
        "paused_at": None,
        "resumes_at": None,
        "customer_id": buyer["id"],
        "product_id": PRODUCTS.get(product, product),
        "discount_id": None,
        "checkout_id": id_of(f"checkout.{who}"),
        "seats": None,
        "units": None,
        "metadata": {} if tenant is None else {"tenant_id": tenant},
        "customer": buyer,
        "product": {"id": PRODUCTS.get(product, product), "name": product.capitalize(), "metadata": {}},
        "discount": None,
        "prices": [price(product)],
        "meters": [],
        "pending_update": None,
        **fields,
    }


LISTED_IN_STATE = (
    *("id", "created_at", "modified_at", "metadata", "status", "amount", "currency", "recurring_interval"),
    *("current_period_start", "current_period_end", "trial_start", "trial_end", "cancel_at_period_end", "canceled_at"),
    *("started_at", "ends_at", "product_id", "discount_id", "meters"),
)
"""The fields of a subscription that the state of its customer shows."""


def state(buyer: Mapping[str, Any], *live: Mapping[str, Any], more: Sequence[str] = ()) -> dict[str, Any]:
    """The state of a customer with these live subscriptions; with `more` fields than Polar shows today."""
    shown = [{name: one[name] for name in (*LISTED_IN_STATE, *more)} for one in live]
    return {**buyer, "active_subscriptions": shown, "granted_benefits": [], "active_meters": []}


def full_state(buyer: Mapping[str, Any], *live: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a customer that shows how much of the product each subscription buys."""
    return state(buyer, *live, more=("seats", "units"))


def order(data: Mapping[str, Any] | None = None, tenant: str | None = "acme", **fields: Any) -> dict[str, Any]:
    """The order of a subscription, or of a product that is bought once."""
    buyer = customer(tenant or "nobody") if data is None else data["customer"]
    return {
        "id": id_of("order"),
        "created_at": at(),
        "modified_at": None,
        "status": "paid",
        "paid": True,
        "net_amount": 2900,
        "tax_amount": 580,
        "total_amount": 3480,
        "refunded_amount": 0,
        "refunded_tax_amount": 0,
        "currency": "usd",
        "billing_reason": "purchase" if data is None else "subscription_create",
        "customer_id": buyer["id"],
        "product_id": PRODUCTS["pro"],
        "subscription_id": None if data is None else data["id"],
        "metadata": {} if tenant is None else {"tenant_id": tenant},
        "seats": None,
        "units": None,
        "customer": buyer,
        "items": [{"id": id_of("line"), "label": "Pro", "amount": 2900, "product_price_id": PRICES["pro"]}],
        **fields,
    }


def refund(data: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """The refund of an order."""
    data = data or order()
    of = {"order_id": data["id"], "subscription_id": data["subscription_id"], "customer_id": data["customer_id"]}
    money = {"amount": data["net_amount"], "tax_amount": data["tax_amount"], "currency": data["currency"]}
    made: dict[str, Any] = {"id": str(uuid.uuid4()), "created_at": at(), "modified_at": None, "status": "succeeded"}
    return {**made, "reason": "customer_request", "revoke_benefits": False, "dispute": None, **of, **money, **fields}


def envelope(data: Mapping[str, Any], kind: str = "subscription.updated", ago_s: float = 0.0) -> bytes:
    """The body of a webhook that was made so many seconds ago."""
    return orjson.dumps({"type": kind, "timestamp": at(ago_s), "data": data})


def signed(
    body: bytes, event_id: str = "", *secrets: str | bytes, at_s: int | None = None, version: str = "v1"
) -> dict[str, str]:
    """The headers of a delivery, signed with each of the secrets (text: its bytes are the key)."""
    id, stamp = event_id or str(uuid.uuid4()), str(int(time.time()) if at_s is None else at_s)
    content = f"{id}.{stamp}.".encode() + body
    keys = [key.encode() if isinstance(key, str) else key for key in secrets or (SECRET,)]
    marks = [base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode() for key in keys]
    signature = " ".join(f"{version},{mark}" for mark in marks)
    return {"webhook-id": id, "webhook-timestamp": stamp, "webhook-signature": signature}
