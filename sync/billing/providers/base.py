"""The contract of a provider's API: a `ProviderClient`, its answers and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sync.billing.domain.facts.model import Event, Item, NamePlace, Subscription
from sync.billing.domain.money.model import Billed, Money
from sync.core.errors import CodedError, SyncError


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
    """One entry of the provider's list of events: its id, and a body as its webhook has it.

    `cursor` is the `after` of a list that begins behind it; "" if that is its id.
    """

    event_id: str
    occurred_ns: int
    body: bytes
    cursor: str = ""

    @property
    def after(self) -> str:
        """The `after` of a list that begins behind it."""
        return self.cursor or self.event_id


@dataclass(frozen=True, slots=True)
class ListedSubscription:
    """One subscription in the provider's list; or, in that of payments, one purchase or refund.

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
        bought: the event of the one-time items that it has sold beside a subscription; None if there are none.
        fetched: the subscription that it has made, if the provider shows it with the checkout.
        is_final: whether it will never make another subscription than that of `payment`, if there is one: it has
            expired, or sells no subscription.
    """

    payment: Event | None = None
    fetched: Event | None = None
    is_final: bool = False
    bought: Event | None = None


class PaidFor(NamedTuple):
    """What a payment was for: the id of a subscription, or of a purchase; and what was paid, None if not shown."""

    id: str
    is_subscription: bool = False
    total: int | None = None


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

    async def bills(self, subscription_id: str, since_ns: int, max_wait_s: float) -> Sequence[Billed]:
        """Return the newest bills of a subscription's changes and renewals since an instant, one page at most."""

    async def events(self, after: str, since_ns: int, max_wait_s: float) -> tuple[Sequence[ProviderEvent], bool]:
        """Return one page of events, oldest first, and whether more follow.

        Args:
            after: the `after` of the entry behind which it begins; "" for the first one since an instant.
            since_ns: that instant.
        """

    async def subscriptions(self, after: str, max_wait_s: float) -> SubscriptionPage:
        """Return one page of all subscriptions, ended ones too, after `after`: an entry's, or a page's `following`.

        "" is the first page.
        """

    async def payments(self, after: str, max_wait_s: float, customer_id: str = "") -> SubscriptionPage:
        """Return one page of all one-time purchases, and of all that went back of any payment; see `subscriptions`.

        A purchase comes before what went back of it. Entries may be hints (`Event.ignored`).

        Args:
            customer_id: only of this customer; "" for all.
        """

    async def paid_for(self, payment_id: str, max_wait_s: float, *, background: bool = False) -> PaidFor | None:
        """Return what a payment was for, of which only its id is known; None if the provider does not say."""

    async def aclose(self) -> None:
        """Close every connection."""
