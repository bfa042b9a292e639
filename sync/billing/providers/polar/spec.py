"""Polar's entry in the registry: its settings, capabilities and client factory."""

from __future__ import annotations

from pydantic import Field

from sync.billing.providers.base import ProviderClient, RateLimiter
from sync.billing.providers.polar.subscription import PRORATIONS
from sync.billing.providers.polar.webhooks import NAME, SCHEME, PolarWebhooks, read_preview
from sync.billing.providers.settings import API_RATE, API_RATE_MAX, ByEnvironment, ProviderSettings
from sync.billing.providers.spec import ProviderSpec


class PolarSettings(ProviderSettings):
    """`PLANWIRE_POLAR_...`."""

    env_prefix = "PLANWIRE_POLAR_"

    secrets: ByEnvironment = Field(
        (), description="Signing secrets of Polar's webhook endpoints: live:whsec_...,sandbox:..."
    )
    api_keys: ByEnvironment = Field(
        (), description="Polar's organization access tokens: live:polar_oat_...,sandbox:polar_oat_..."
    )
    api_rate_per_s: float = Field(5, gt=0, le=API_RATE_MAX, description=API_RATE)


def _make_client(environment: str, key: str, base_url: str, rate_limiter: RateLimiter) -> ProviderClient:
    from sync.billing.providers.polar.client import PolarClient

    return PolarClient(environment, key, base_url, rate_limiter)


POLAR = ProviderSpec(
    name=NAME,
    title="Polar",
    adapter=PolarWebhooks(),
    signature_header=SCHEME.header,
    signature_format="v1,BASE64: HMAC-SHA256 of `webhook-id.webhook-timestamp.body` with an endpoint's secret.",
    settings=PolarSettings,
    make_client=_make_client,
    billing_modes=tuple(PRORATIONS),
    read_preview=read_preview,
)
