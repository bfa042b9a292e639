"""What the rest of the code knows of a provider: its `ProviderSpec`, an entry of the registry."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sync.billing.providers.base import ProviderClient, ProviderPreview, RateLimiter
from sync.billing.providers.settings import ProviderSettings
from sync.billing.providers.webhook_adapter import WebhookAdapter
from sync.core.errors import SyncError

BILLING_MODES = (
    "prorated_immediately",
    "prorated_next_billing_period",
    "full_immediately",
    "full_next_billing_period",
    "do_not_bill",
)
"""How a plan change can be billed. The names are Paddle's; other providers translate the modes that they support."""


class SdkMissingError(SyncError):
    """API keys are set for `provider`, but its SDK, the package `package`, is not installed."""

    def __init__(self, provider: str, package: str) -> None:
        super().__init__(
            f"PLANWIRE_{provider.upper()}_API_KEYS: {package} is not installed: "
            f"pip install 'planwire[{provider}]', or leave the keys out"
        )


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """One provider's interface to the rest of the code.

    Args:
        name: used in URLs, settings, the catalog and subscription keys; lower case.
        title: display name.
        adapter: reads its webhooks.
        signature_header: the header that `adapter.verify` reads.
        signature_format: description of that header, for people.
        settings: model of `PLANWIRE_<NAME>_...`.
        make_client: (environment, API key, base URL or "" for its own, rate limiter) -> client. It may block for a
            second to import the SDK.
        billing_modes: those of BILLING_MODES that it supports.
        read_preview: (document, subscription id, billing mode) -> the provider's preview, parsed. Raises ValueError.
        sdk: module and package of the provider's own library, if `make_client` needs one.
    """

    name: str
    title: str
    adapter: WebhookAdapter
    signature_header: str
    signature_format: str
    settings: type[ProviderSettings]
    make_client: Callable[[str, str, str, RateLimiter], ProviderClient]
    billing_modes: Sequence[str]
    read_preview: Callable[[Mapping[str, object], str, str], ProviderPreview]
    sdk: tuple[str, str] | None = None

    def check_sdk(self) -> None:
        """Check that the SDK is installed, if one is needed.

        Raises:
            SdkMissingError: it is not installed.
        """
        # Do not import the SDK here: that may take a second.
        if self.sdk is not None and importlib.util.find_spec(self.sdk[0]) is None:
            raise SdkMissingError(self.name, self.sdk[1])
