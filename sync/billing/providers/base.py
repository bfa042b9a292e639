"""The contract of a billing provider: a `WebhookAdapter` reads its webhooks (pure), a `ProviderClient` calls its API.

Some providers deliver in no order, sign in their own way, or send thin events without a body. So `Event.subscription`
is optional, and the adapter derives `Event.order` from the fields that the provider sends.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from sync.billing.domain.facts.model import Event, Item, NamePlace, Subscription, Unparsable
from sync.billing.domain.money.model import Money
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
"""How a plan change can be billed. The names are Paddle's; other providers translate the modes that they support."""


@dataclass(frozen=True, slots=True)
class Secret:
    """One signing secret and its environment, which webhook bodies often do not name."""

    environment: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verified:
    """The body was signed by the provider with a secret of this environment.

    `event_id` is the event's id if it is in the signed headers, and not in the body; else "".
    """

    environment: str
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Malformed:
    """The signature header is missing or cannot be read; `problem` says why."""

    problem: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """No configured secret made this signature."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The signature is genuine, but its time differs from our clock by `skew_s` (positive: past), beyond the tolerance.

    The cause is a wrong clock or a replay, never a wrong secret.
    """

    skew_s: int


Verification = Verified | Malformed | Invalid | Expired


class WebhookAdapter(Protocol):
    """Reads one provider's webhooks. Pure.

    Attributes:
        name: the provider's name in the registry.
        has_coarse_clock: whether several events of one subscription can have the same time, and their ids have no order
            (times in whole seconds). Then `Event.step` is set.
    """

    name: str
    has_coarse_clock: bool

    def verify(
        self, body: bytes, headers: Mapping[str, str], secrets: Sequence[Secret], now_s: float, tolerance_s: float
    ) -> Verification:
        """Return the result of checking the signature of the raw bytes. Never raises: the input is untrusted."""

    def split(self, body: bytes, event_id: str) -> Sequence[tuple[str, bytes]]:
        """Return the events in a verified body, each as its id and a body for `parse`. Never raises.

        Most providers send one event at a time: the body as it is.

        Args:
            event_id: see `parse`.
        """

    def parse(self, body: bytes, environment: str, event_id: str = "") -> Event | Unparsable:
        """Return the event in a verified body. Never raises. Types that do not affect entitlements are events too.

        Args:
            event_id: the id of an event whose body has none: that of the signed headers (`Verified`).
        """


class ProviderUnavailable(SyncError):
    """The provider could not be called: it is unreachable or slow, or the rate limit is used up. `reason` says which.

    `retry_s`: minimum delay before a retry, in seconds; 0 if it is not known.
    """

    def __init__(self, reason: str, retry_s: float = 0.0) -> None:
        super().__init__(f"the provider could not be asked: {reason}")
        self.reason = reason
        self.retry_s = retry_s


class ProviderRejected(CodedError):
    """The provider rejected the call. `code` is its own error code; `not_found` for what it does not have."""


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """One entry of the provider's list of events: its id, and a body for `WebhookAdapter.parse`."""

    event_id: str
    occurred_ns: int
    body: bytes


@dataclass(frozen=True, slots=True)
class ListedSubscription:
    """One subscription in the provider's list.

    `event` is the fetched subscription; None if it cannot be read, and `problem` says why. `body` holds it as a webhook
    event with the id `event_id`, for `WebhookAdapter.parse`. It is stored if the subscription cannot be used yet.
    `cursor` is the `after` of a list that begins behind it; "" if that is its id.
    """

    subscription_id: str
    event_id: str
    body: bytes
    event: Event | None
    problem: str = ""
    cursor: str = ""

    @property
    def after(self) -> str:
        """The `after` of a list that begins behind it; "" if it has none."""
        return self.cursor or self.subscription_id


@dataclass(frozen=True, slots=True)
class SubscriptionPage:
    """One page of the provider's subscriptions. `following`: the `after` of the next page; "" on the last page.

    `total`: approximate number on all pages; None if the provider does not report it.
    """

    entries: Sequence[ListedSubscription]
    following: str
    total: int | None = None


@dataclass(frozen=True, slots=True)
class ProviderPreview:
    """The provider's preview of a change: its cost and its result. `document` is the provider's own answer.

    `subscription` is the resulting subscription; None if the document does not show it (Stripe's is an invoice).
    `money` is its cost; None if the document does not show it.
    """

    document: Mapping[str, object]
    subscription: Subscription | None
    money: Money | None = None


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout: Paddle's transaction, Stripe's checkout session.

    Attributes:
        payment: the event of its payment; None while it is not paid.
        fetched: the subscription that it has made, if the provider shows it with the checkout.
        is_final: whether it will never make another subscription than that of `payment`, if there is one: it has
            expired, or sells no subscription.
    """

    payment: Event | None = None
    fetched: Event | None = None
    is_final: bool = False


class RateLimiter(Protocol):
    """Limits an API client's calls. A caller that would wait longer than `max_wait_s` gets an error instead."""

    async def acquire(self, max_wait_s: float, *, background: bool = False) -> None:
        """Return when one call may be made.

        Raises:
            ProviderUnavailable: the wait would exceed `max_wait_s`, or calls are paused.
            StoreError: the limit is kept in the store, and the store is unreachable or failing.
        """

    async def pause(self, seconds: float, *, throttled: bool = False) -> None:
        """Pause all calls: the provider is unreachable, or (`throttled`) asked for the pause.

        Raises:
            StoreError: as above.
        """

    async def resume(self) -> None:
        """End the pause, since the provider has answered. A pause that the provider asked for stays.

        Raises:
            StoreError: as above.
        """


class ProviderClient(Protocol):
    """The API of one environment of a provider.

    Every method may raise ProviderUnavailable (also after `max_wait_s` seconds) and ProviderRejected. A fetched `Event`
    has the type FETCHED, and its order holds the start of the fetch. `background` calls leave a part of the rate limit
    to other callers.

    Attributes:
        checkout_prefix: the beginning of the ids of its checkouts; "" if it has none.
    """

    checkout_prefix: str

    async def fetch(self, subscription_id: str, max_wait_s: float, *, background: bool = False) -> Event:
        """Return the provider's current subscription, by a request that begins after this call."""

    async def checkout(self, checkout_id: str, max_wait_s: float, *, background: bool = False) -> Checkout:
        """Return a checkout, by one request."""

    async def customer_names(
        self, customer_id: str, max_wait_s: float, *, background: bool = False
    ) -> tuple[NamePlace, ...]:
        """Return the places in the provider's current customer that may name a tenant."""

    async def change_items(
        self,
        subscription_id: str,
        items: Sequence[Item],
        billing_mode: str,
        max_wait_s: float,
        *,
        at_ns: int | None = None,
    ) -> Event:
        """Return the subscription with its items replaced by these.

        Args:
            at_ns: the instant for which the change was quoted, if the provider can bill it as of then.
        """

    async def preview_items(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, max_wait_s: float
    ) -> ProviderPreview:
        """Return the provider's preview of such a change; nothing is changed."""

    async def events(self, after: str, since_ns: int, max_wait_s: float) -> tuple[Sequence[ProviderEvent], bool]:
        """Return one page of events after the id `after` ("": since an instant), oldest first, and if more follow."""

    async def subscriptions(self, after: str, max_wait_s: float) -> SubscriptionPage:
        """Return one page of all subscriptions, ended ones too, after `after`: an entry's, or a page's `following`.

        "" is the first page.
        """

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
