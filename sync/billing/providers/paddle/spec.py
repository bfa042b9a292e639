"""Paddle Billing's entry in the registry: its settings, capabilities and client factory."""

from __future__ import annotations

from pydantic import Field

from sync.billing.providers.base import ProviderClient, RateLimiter
from sync.billing.providers.paddle.webhooks import NAME, SCHEME, PaddleWebhooks, read_preview
from sync.billing.providers.settings import API_RATE, API_RATE_MAX, ByEnvironment, ProviderSettings
from sync.billing.providers.spec import BILLING_MODES, ProviderSpec


class PaddleSettings(ProviderSettings):
    """`PLANWIRE_PADDLE_...`."""

    env_prefix = "PLANWIRE_PADDLE_"

    secrets: ByEnvironment = Field(
        (), description="Signing secrets of Paddle's notification destinations: live:pdl_ntfset_...,sandbox:..."
    )
    api_rate_per_s: float = Field(3, gt=0, le=API_RATE_MAX, description=API_RATE)


def _make_client(environment: str, key: str, base_url: str, rate_limiter: RateLimiter) -> ProviderClient:
    from sync.billing.providers.paddle.client import PaddleClient

    return PaddleClient(environment, key, base_url, rate_limiter)


PADDLE = ProviderSpec(
    name=NAME,
    title="Paddle",
    adapter=PaddleWebhooks(),
    signature_header=SCHEME.header,
    signature_format="ts=SECONDS;h1=HEX: HMAC-SHA256 of `ts:body` with a destination's secret.",
    settings=PaddleSettings,
    make_client=_make_client,
    billing_modes=BILLING_MODES,
    read_preview=read_preview,
    sdk=("paddle_billing", "paddle-python-sdk"),
)
