"""The contract of a billing provider: a `WebhookAdapter` reads what it sends (pure), a `ProviderClient` asks it.

It fits providers that order nothing, sign in their own way, or send thin events without a body: `Event.subscription` is
optional, and the adapter makes `Event.order` from whatever the provider gives.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from sync.billing.domain.model import Event, Item, Subscription, Unparsable
from sync.core.errors import CodedError, SyncError

if TYPE_CHECKING:
    from sync.billing.providers.settings import ProviderSettings

BILLING_MODES = (
    "prorated_immediately",
    "prorated_next_billing_period",
    "full_immediately",
    "full_next_billing_period",
    "do_not_bill",
)
"""How a plan change can be billed. The words are Paddle's; a provider's adapter translates those that it has."""


@dataclass(frozen=True, slots=True)
class Secret:
    """One signing secret and the environment that it stands for; providers often name none in the body."""

    environment: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verified:
    """The body was signed by the provider with a secret of this environment."""

    environment: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """The signature header is missing or cannot be read; `problem` says why."""

    problem: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """No configured secret made this signature."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The signature is genuine, but its time is `skew_s` from our clock (positive: in our past), beyond the tolerance.

    That is about clocks or a replay, never about a wrong secret.
    """

    skew_s: int


Verification = Verified | Malformed | Invalid | Expired


class WebhookAdapter(Protocol):
    """Reads what one provider sends. Pure.

    Attributes:
        name: the provider's name in the registry.
        metadata_field: where the provider's subscriptions carry `tenant_id`.
    """

    name: str
    metadata_field: str

    def verify(
        self, body: bytes, headers: Mapping[str, str], secrets: Sequence[Secret], now_s: float, tolerance_s: float
    ) -> Verification:
        """Return who signed the raw bytes of a delivery. Never raises: the input is anybody's."""

    def parse(self, body: bytes, environment: str) -> Event | Unparsable:
        """Return the event in a verified body. Never raises. Types that say nothing of entitlements are events too."""


class ProviderUnavailable(SyncError):
    """The provider could not be asked: it is away, slow, or the rate budget is used up. `reason` says which.

    `retry_s`: before so long it is of no use to ask again; 0 where that is not known.
    """

    def __init__(self, reason: str, retry_s: float = 0.0) -> None:
        super().__init__(f"the provider could not be asked: {reason}")
        self.reason = reason
        self.retry_s = retry_s


class ProviderRejected(CodedError):
    """The provider was asked and said no: `code` is its own word for why (`not_found` for what it does not have)."""


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """One event as the provider's list of events has it: its id and a body that `WebhookAdapter.parse` reads."""

    event_id: str
    occurred_ns: int
    body: bytes


@dataclass(frozen=True, slots=True)
class ListedSubscription:
    """One subscription in the provider's list.

    `event` is the subscription as fetched, or None where `problem` says why it cannot be read. `body` is the same as an
    event with the id `event_id`, in a form that `WebhookAdapter.parse` reads: kept until the subscription can be used.
    """

    subscription_id: str
    event_id: str
    body: bytes
    event: Event | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SubscriptionPage:
    """One page of the provider's subscriptions. `following`: the `after` of the next one, "" behind the last.

    `total`: how many there are on all pages, about; None where the provider does not tell.
    """

    entries: Sequence[ListedSubscription]
    following: str
    total: int | None = None


@dataclass(frozen=True, slots=True)
class ProviderPreview:
    """What the provider says that a change would cost and make: its `document`, as it answered.

    `subscription` is the subscription as it would be, or None where the document does not tell: Stripe's is an invoice.
    """

    document: Mapping[str, object]
    subscription: Subscription | None


class RateLimiter(Protocol):
    """Limits an API client's calls. A caller that would wait longer than `max_wait_s` gets an error instead."""

    async def acquire(self, max_wait_s: float, *, background: bool = False) -> None:
        """Return when one call may be made.

        Raises:
            ProviderUnavailable: that would take longer than `max_wait_s`, or `pause` was called lately.
            StoreError: the limit is kept in the store, which is unreachable or failing.
        """

    async def pause(self, seconds: float, *, throttled: bool = False) -> None:
        """Pause all calls: the provider is away, or (`throttled`) asked for this pause itself.

        Raises:
            StoreError: as above.
        """

    async def resume(self) -> None:
        """Let everybody call again: the provider has answered. A pause that it asked for itself stays.

        Raises:
            StoreError: as above.
        """


class ProviderClient(Protocol):
    """The API of one environment of a provider.

    Every method raises ProviderUnavailable (also where `max_wait_s` does not suffice) and ProviderRejected. A fetched
    `Event` has the type FETCHED and an order that says when its fetch began. `background` calls leave a part of the
    rate limit to others.
    """

    async def fetch(self, subscription_id: str, max_wait_s: float, *, background: bool = False) -> Event:
        """Return the subscription as the provider has it, by a request begun after this call."""

    async def change_items(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, max_wait_s: float
    ) -> Event:
        """Return the subscription with its items replaced by these."""

    async def preview_items(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, max_wait_s: float
    ) -> ProviderPreview:
        """Return what the provider says such a change would cost and make; nothing is changed."""

    async def events(self, after: str, since_ns: int, max_wait_s: float) -> tuple[Sequence[ProviderEvent], bool]:
        """Return events behind the id `after` (or, without one, since an instant), oldest first, and if more follow."""

    async def subscriptions(self, after: str, max_wait_s: float) -> SubscriptionPage:
        """Return one page of all subscriptions, ended ones too, behind the one whose id is `after` ("": the first)."""

    async def aclose(self) -> None:
        """Close every connection."""


class SdkMissingError(SyncError):
    """API keys are set for `provider`, but its SDK, the package `package`, is not installed."""

    def __init__(self, provider: str, package: str) -> None:
        super().__init__(
            f"PLANWIRE_{provider.upper()}_API_KEYS: {package} is not installed: "
            f"pip install 'planwire[{provider}]', or leave the keys out"
        )


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """One provider, as everything outside its folder sees it.

    Args:
        name: in addresses, settings, the catalog and subscription keys; lower case.
        title: for people.
        adapter: reads its webhooks.
        signature_header: the header that `adapter.verify` reads.
        signature_format: what that header holds, for people.
        settings: model of `PLANWIRE_<NAME>_...`.
        make_client: (environment, API key, base URL or "" for its own, rate limiter) -> client. It may block for a
            second to import the SDK.
        billing_modes: those of BILLING_MODES that it has.
        read_preview: (document, subscription id) -> the provider's own preview, read. Raises ValueError.
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
    read_preview: Callable[[Mapping[str, object], str], ProviderPreview]
    sdk: tuple[str, str] | None = None

    def check_sdk(self) -> None:
        """Return if the SDK is there, or none is needed.

        Raises:
            SdkMissingError: it is not installed.
        """
        # The SDK is not loaded, which may take a second.
        if self.sdk is not None and importlib.util.find_spec(self.sdk[0]) is None:
            raise SdkMissingError(self.name, self.sdk[1])
