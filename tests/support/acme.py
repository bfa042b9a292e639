"""A third billing provider, as small as one can be: the registry's tests add it, and the recipe points here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sync.billing.domain.facts.model import Event, NamePlace, Order, Subscription
from sync.billing.providers import parsing
from sync.billing.providers.base import (
    ProviderClient,
    ProviderPreview,
    ProviderSpec,
    RateLimiter,
)
from sync.billing.providers.hmac_signature import Scheme, SignedWebhooks
from sync.billing.providers.settings import ProviderSettings

SCHEME = Scheme("Acme-Signature", ",", "at", "mac", b"\n")


class AcmeWebhooks(SignedWebhooks):
    """`{"id": ..., "type": ..., "version": ..., "tenant": ..., "subscription": {"id": ..., "items": [...]}}`."""

    name = "acme"
    scheme = SCHEME

    def read(self, environment: str, envelope: dict[str, Any], event_id: str, kind: str) -> Event:
        data = envelope["subscription"]
        items = tuple(parsing.item(entry) for entry in data["items"])
        return Event(
            self.name,
            environment,
            event_id,
            kind,
            Order(envelope["version"], envelope["version"], event_id),
            names=(NamePlace("tenant", envelope["tenant"]),),
            subscription_id=data["id"],
            subscription=Subscription(data["id"], data.get("status", "active"), items),
        )


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
