"""Stripe Billing's entry in the registry: its settings, capabilities and client factory."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from planwire_client.core.topic import LIVE
from sync.billing.providers.base import ProviderClient, RateLimiter
from sync.billing.providers.settings import API_RATE, API_RATE_MAX, ByEnvironment, ProviderSettings
from sync.billing.providers.spec import ProviderSpec
from sync.billing.providers.stripe.webhooks import NAME, PRORATIONS, SCHEME, StripeWebhooks, read_preview

_MODE = re.compile(r"[a-z]+_(live|test)_")
"""The prefix of Stripe's keys: sk_live_, rk_test_ and the like."""

_ACCOUNT = re.compile(r"acct_[A-Za-z0-9]{1,100}")


def _accounts(value: object) -> object:
    """Return the accounts of `acct_A,acct_B`, or `*` for all."""
    if not isinstance(value, str):
        return value
    names = [part for part in (part.strip() for part in value.split(",")) if part]
    wrong = next((name for name in names if name != "*" and _ACCOUNT.fullmatch(name) is None), None)
    if wrong is not None:
        raise ValueError(f"{wrong[:60]!r} is no account: give a list such as acct_A,acct_B, or * for all")
    return tuple(names)


_Accounts = Annotated[tuple[str, ...], BeforeValidator(_accounts)]


class StripeSettings(ProviderSettings):
    """`PLANWIRE_STRIPE_...`."""

    env_prefix = "PLANWIRE_STRIPE_"

    secrets: ByEnvironment = Field(
        (), description="Signing secrets of Stripe's webhook endpoints: live:whsec_...,sandbox:..."
    )
    api_keys: ByEnvironment = Field((), description="Stripe API keys: live:sk_live_...,sandbox:sk_test_...")
    api_rate_per_s: float = Field(10, gt=0, le=API_RATE_MAX, description=API_RATE)

    connect_accounts: _Accounts = Field(
        (),
        description="Connected accounts whose events count, as acct_A,acct_B, or * for all. Others' are ignored.",
    )

    @property
    def accounts(self) -> frozenset[str]:
        """The connected accounts whose events count; `*` for all."""
        return frozenset(self.connect_accounts)

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
