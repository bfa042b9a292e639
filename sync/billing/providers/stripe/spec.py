"""Stripe Billing's entry in the registry: its settings, capabilities and client factory."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, model_validator

from planwire_client.core.topic import LIVE
from sync.billing.providers.base import ProviderClient, ProviderSpec, RateLimiter
from sync.billing.providers.settings import API_RATE, API_RATE_MAX, ByEnvironment, ProviderSettings
from sync.billing.providers.stripe.webhooks import NAME, PRORATIONS, SCHEME, StripeWebhooks, read_preview

_MODE = re.compile(r"[a-z]+_(live|test)_")
"""The prefix of Stripe's keys: sk_live_, rk_test_ and the like."""


class StripeSettings(ProviderSettings):
    """`PLANWIRE_STRIPE_...`."""

    env_prefix = "PLANWIRE_STRIPE_"

    secrets: ByEnvironment = Field(
        (), description="Signing secrets of Stripe's webhook endpoints: live:whsec_...,sandbox:..."
    )
    api_keys: ByEnvironment = Field((), description="Stripe API keys: live:sk_live_...,sandbox:sk_test_...")
    api_rate_per_s: float = Field(10, gt=0, le=API_RATE_MAX, description=API_RATE)

    @model_validator(mode="after")
    def _keys_are_of_their_environment(self) -> Self:
        for name, key in self.api_keys:
            mode = _MODE.match(key.get_secret_value())
            if mode is not None and (mode[1] == "live") != (name == LIVE):
                raise ValueError(f"{self.variable('api_keys')} has a key of Stripe's {mode[1]} mode for {name}")
        return self


def _make_client(environment: str, key: str, base_url: str, rate_limiter: RateLimiter) -> ProviderClient:
    from sync.billing.providers.stripe.client import StripeClient

    return StripeClient(environment, key, base_url, rate_limiter)


STRIPE = ProviderSpec(
    name=NAME,
    title="Stripe",
    adapter=StripeWebhooks(),
    signature_header=SCHEME.header,
    signature_format="t=SECONDS,v1=HEX: HMAC-SHA256 of `t.body` with an endpoint's secret.",
    settings=StripeSettings,
    make_client=_make_client,
    billing_modes=tuple(PRORATIONS),
    read_preview=read_preview,
)
