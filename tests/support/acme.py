"""A third billing provider, as small as one can be: the registry's tests add it, and the recipe points here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sync.billing.domain.facts.model import Event, NamePlace, Order, Purchase, Refund, Subscription
from sync.billing.domain.facts.payments import RefundKind, RefundStatus
from sync.billing.providers import parsing
from sync.billing.providers.base import ProviderClient, ProviderPreview, RateLimiter
from sync.billing.providers.hmac_signature import Scheme, SignedWebhooks
from sync.billing.providers.settings import ProviderSettings
from sync.billing.providers.spec import ProviderSpec

SCHEME = Scheme("Acme-Signature", ",", "at", "mac", b"\n")


class AcmeWebhooks(SignedWebhooks):
    """`{"id": ..., "type": ..., "version": ..., "tenant": ..., "subscription": {"id": ..., "items": [...]}}`.

    A `purchase` is like a subscription, with `paid` in cents; a `refund` is `{"id": ..., "of": ..., "cents": ...}`.
    """

    name = "acme"
    scheme = SCHEME

    def read(self, environment: str, envelope: dict[str, Any], event_id: str, kind: str) -> Event:
        version = envelope["version"]
        event = Event(self.name, environment, event_id, kind, Order(version, version, event_id))
        if back := envelope.get("refund"):
            place, approved = (version, version, event_id), RefundStatus.APPROVED
            refund = Refund(place, back["id"], RefundKind.REFUND, approved, version, back["cents"], "USD")
            return replace(event, subscription_id=back["of"], refund=refund)
        data = envelope.get("purchase") or envelope["subscription"]
        purchase = Purchase(version, data["paid"], "USD") if "paid" in data else None
        body = Subscription(
            data["id"],
            data.get("status", "active"),
            tuple([parsing.item(entry) for entry in data["items"]]),
            products=parsing.products(data["items"]),
            purchase=purchase,
        )
        return parsing.with_subscription(event, body, (NamePlace("tenant", envelope["tenant"]),))


class AcmeSettings(ProviderSettings):
    env_prefix = "PLANWIRE_ACME_"


def make_client(environment: str, key: str, base_url: str, rate_limiter: RateLimiter) -> ProviderClient:
    raise AssertionError("the tests ask nothing")


def read_preview(document: Mapping[str, object], subscription_id: str, billing_mode: str) -> ProviderPreview:
    return ProviderPreview(document, None)


ACME = ProviderSpec(
    name="acme",
    title="Acme",
    adapter=AcmeWebhooks(),
    signature_header=SCHEME.header,
    signature_format="sha256=HEX",
    settings=AcmeSettings,
    make_client=make_client,
    billing_modes=("do_not_bill",),
    read_preview=read_preview,
)
