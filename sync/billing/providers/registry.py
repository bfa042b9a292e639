"""The list of billing providers. A new one needs a folder beside `paddle` and an entry here."""

from __future__ import annotations

from sync.billing.providers.paddle.spec import PADDLE
from sync.billing.providers.polar.spec import POLAR
from sync.billing.providers.spec import ProviderSpec
from sync.billing.providers.stripe.spec import STRIPE

PROVIDERS: dict[str, ProviderSpec] = {spec.name: spec for spec in (PADDLE, STRIPE, POLAR)}
"""Name -> provider. Settings, catalog, webhook routes, command line and OpenAPI use it."""
