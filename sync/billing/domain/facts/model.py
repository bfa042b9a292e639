"""The values of billing: a provider's event, and the facts kept per tenant (`codec` stores them). Pure.

Every instant is an integer, nanoseconds since 1970, named `_ns`. None stands for "not applicable".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sync.billing.domain.facts.instructions import AwaitedBill, AwaitedPreview, Override, ScheduledPlanChange
from sync.billing.domain.facts.order import FETCHED_ID as FETCHED_ID, Ahead as Ahead, Order as Order
from sync.billing.domain.facts.payments import Purchase as Purchase, Refund as Refund
from sync.billing.domain.facts.steps import Seen, Step
from sync.billing.domain.money.model import Billed

UNCOLLECTED = "uncollected"
"""The status of a subscription that is provided, but whose payments are not collected; shown as paused."""

EXPIRED = "expired"
"""The status of a subscription that never began, since its first payment was not made; shown as none."""

PAID_STATUSES = frozenset({"trialing", "active"})
"""The statuses in which everything is paid that is due."""

PAYING_STATUSES = frozenset({"incomplete", "trialing", "active", UNCOLLECTED})
"""The statuses before and while everything is paid."""

LIVE_STATUSES = frozenset({"trialing", "active", UNCOLLECTED, "past_due"})
"""A subscription's statuses that can grant something (past_due only within its grace)."""

ENDED_STATUSES = frozenset({"canceled", EXPIRED})
"""The statuses that a subscription never leaves."""

KNOWN_STATUSES = PAYING_STATUSES | {"past_due", "unpaid", "paused"} | ENDED_STATUSES
"""The statuses of subscriptions. A state shows them by these words, except UNCOLLECTED and EXPIRED."""

KNOWN_ACTIONS = frozenset({"cancel", "pause", "resume"})

FETCHED = "fetched"
"""The type of the pseudo-event that a fetch makes from the provider's answer."""


class Item(NamedTuple):
    """One line of a subscription: a price and how many units of it."""

    price_id: str
    quantity: int


class Price(NamedTuple):
    """By what else the catalog may list a price: its lookup key and its product; "" for none, or unknown."""

    lookup_key: str = ""
    product_id: str = ""


NO_PRICE = Price()


class Scheduled(NamedTuple):
    """A change that the provider makes by itself: `cancel`, `pause` (until `resume_ns`, or for good) or `resume`."""

    action: str
    effective_ns: int
    resume_ns: int | None = None


class Period(NamedTuple):
    """A billing period."""

    starts_ns: int
    ends_ns: int


@dataclass(frozen=True, slots=True)
class Subscription:
    """A whole subscription, or a one-time purchase, as one event shows it.

    Attributes:
        id: of a purchase: the id of its payment.
        status: one of KNOWN_STATUSES, or a status of the provider that this build does not know.
        trial_ends_ns: the end of its last trial; meaningful only while trialing.
        created_ns: when it was created; None if the provider does not say.
        products: price id -> product id. Not compared: older facts lack it.
        lookup_keys: price id -> lookup key, of the prices that have one. Not compared either.
        purchase: what only a purchase has; None for a subscription.
    """

    id: str
    status: str
    items: tuple[Item, ...]
    customer_id: str | None = None
    period: Period | None = None
    trial_ends_ns: int | None = None
    scheduled: Scheduled | None = None
    created_ns: int | None = field(default=None, compare=False)
    products: Mapping[str, str] = field(default_factory=dict, compare=False)
    lookup_keys: Mapping[str, str] = field(default_factory=dict, compare=False)
    purchase: Purchase | None = None


class NamePlace(NamedTuple):
    """A place in an event that may name its tenant: a metadata object, or the name itself; None if it is absent."""

    where: str
    value: object


@dataclass(frozen=True, slots=True)
class Event:
    """One billing fact in the provider-neutral form that webhook adapters make.

    Attributes:
        event_id: the dedupe key, the same on every delivery.
        delivery_id: the provider's id of this one delivery, or None.
        order: its place among the events of its subscription.
        own: its order by its own clock, if that is ahead; None if it is `order`.
        tenant_id: the topic id of the tenant that the event itself names, or None; see `tenant_naming`.
        is_signed: whether a signed reference names it, and the signature was verified.
        name_problem: why the name in the event's metadata is not accepted, and `tenant_id` is None; "" if it is.
        names: the places that may name the tenant, strongest first.
        named_by: the place and key that `tenant_id` is from; "" if there is none.
        renames: whether it changes the subscription's metadata, which name the tenant; False if it does not say so.
        unnamed: why the event names no tenant, if it is not `name_problem`; "" if it does.
        simulated: made by the provider's simulator, not about a real subscription.
        subscription: the body, or None if the event carries no usable one.
        ignored: why the event does not affect entitlements; "" if it may.
        unstamped: fetched from a provider without modification times: `order` holds the time of the fetch.
        step: its place among the events of the same instant, if the provider's clock is coarse; else None.
        received_ns: when it was first received; 0 if that is not known, or makes no difference.
        account: the account of another merchant that the event is about; None for the own account.
        live_subscriptions: the ids of all live subscriptions of its customer; None if it does not list them.
        checkout_id: of the checkout that the event is about, or that made its subscription, if only that joins the two.
        billed: what a change or a renewal of a subscription was billed, if the event is about that.
        refund: the money that goes back, of the subscription or purchase `subscription_id`; None for other events.
        unlisted: the id of a paid checkout without its items, which has to be fetched; "" for other events.
        is_hint: whether its subscription's own events say the same: what is known need not be fetched for it.
    """

    provider: str
    environment: str
    event_id: str
    type: str
    order: Order
    delivery_id: str | None = None
    tenant_id: str | None = None
    customer_id: str | None = None
    subscription_id: str | None = None
    simulated: bool = False
    subscription: Subscription | None = None
    ignored: str = ""
    unstamped: bool = False
    account: str | None = None
    checkout_id: str | None = None
    is_signed: bool = False
    name_problem: str = ""
    names: tuple[NamePlace, ...] = ()
    named_by: str = ""
    unnamed: str = ""
    renames: bool = False
    step: Step | None = None
    received_ns: int = 0
    own: Order | None = None
    live_subscriptions: frozenset[str] | None = None
    billed: Billed | None = None
    refund: Refund | None = None
    unlisted: str = ""
    is_hint: bool = False

    @property
    def is_of_payment(self) -> bool:
        """Whether it is about a one-time purchase or a refund: there is no subscription to fetch."""
        return self.refund is not None or (self.subscription is not None and self.subscription.purchase is not None)


@dataclass(frozen=True, slots=True)
class Unparsable:
    """A genuine body that this build cannot read as an event.

    Attributes:
        event_id: its own, or derived from its bytes.
        account: the account of another merchant that it is about; None for the own account, or if that is not known.
    """

    event_id: str
    type: str
    problem: str
    account: str | None = None


class Granted(NamedTuple):
    """The items of the newest body that the catalog knew, and its order; no items: it has never known any."""

    order: Order
    items: tuple[Item, ...]


NEVER_GRANTED = Granted(Order(0, 0, ""), ())


@dataclass(frozen=True, slots=True)
class SubscriptionFacts:
    """What is known of one subscription.

    Attributes:
        granted: stands in for unknown items of `subscription`; None if it had none when it was stored.
        granted_in: what stands in for them in each application, by its name, if the catalog names applications.
        apps: the applications that all its items were sold for when it was stored; () if that is not known.
        order: the order of the newest event; `subscription` is its body.
        settled: the order of the newest event that was not past_due, or None.
        past_due: the orders of the past_due events newer than `settled`, ascending: the current run. Providers have no
            past_due_at, so grace starts at the earliest `occurred_ns` among them. All are kept, since a late event may
            settle the run at any of them.
        created_ns: when it was created, the earliest time that any event says; None if none does.
        is_vouched: whether a signed reference or an operator has given it to the tenant.
        moved_us: the time of the move that gave it to this tenant, microseconds since 1970; 0 if it was never moved.
        recent: the events of the newest instants of a coarse clock, ascending; see `reducer`.
        ahead: the event from the future that is the newest by its own clock; None if there was none.
        former: what earlier bodies said of prices, if the newest one does not say the same; see `prices`.
        first_seen: price id -> the earliest time of an event that shows the price; see `prices`. Older facts lack it.
        refunds: the money that goes back, by the provider's id; see `refunds`.
    """

    provider: str
    subscription: Subscription
    order: Order
    settled: Order | None = None
    past_due: tuple[Order, ...] = ()
    created_ns: int | None = None
    is_vouched: bool = False
    moved_us: int = 0
    granted: Granted | None = None
    recent: tuple[Seen, ...] = ()
    ahead: Ahead | None = None
    former: Mapping[str, Price] = field(default_factory=dict)
    first_seen: Mapping[str, int] = field(default_factory=dict)
    granted_in: Mapping[str, Granted] = field(default_factory=dict)
    apps: tuple[str, ...] = ()
    refunds: Mapping[str, Refund] = field(default_factory=dict)

    @property
    def customer(self) -> tuple[str, str] | None:
        """The provider and the id of the customer who pays; None if that is not known."""
        return None if self.subscription.customer_id is None else (self.provider, self.subscription.customer_id)

    @property
    def past_due_since_ns(self) -> int | None:
        """The start of the current run of past_due events; None if `subscription` is not past_due."""
        if self.subscription.status != "past_due":
            return None
        return min([mark.occurred_ns for mark in self.past_due], default=self.order.occurred_ns)

    def with_newest(
        self, body: Subscription, order: Order, settled: Order | None, past_due: tuple[Order, ...]
    ) -> SubscriptionFacts:
        """Return the facts after a newer event. Every event runs this; `dataclasses.replace` takes twice the time."""
        kept = (self.created_ns, self.is_vouched, self.moved_us, self.granted, self.recent, self.ahead)
        more = (self.former, self.first_seen, self.granted_in, self.apps, self.refunds)
        return SubscriptionFacts(self.provider, body, order, settled, past_due, *kept, *more)

    def stands_in(self, app: str) -> Granted | None:
        """Return what stands in for unknown items in an application, or in the whole catalog for ""."""
        return self.granted_in.get(app) if app and self.granted_in else self.granted


KEPT = ("plan", "features", "limits", "modules")
"""The fields of a state that stay while the catalog lacks what they were granted by."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of a tenant; never changed in place.

    Attributes:
        subscriptions: the subscriptions and the one-time purchases, by `subscription_key`.
        erased_ns: when the tenant was erased; then it has no other facts, now or later.
        scheduled_changes: at most one of each application.
        awaited_previews: at most one of each subscription.
        moved: the subscriptions that were moved to another tenant, by key, with the time of the move in microseconds
            since 1970. Late events do not bring them back.
        kept: the fields KEPT of the state that was published last before the catalog lost what it was granted by.
        awaited_bills: what was quoted, and is to be billed.
    """

    subscriptions: Mapping[str, SubscriptionFacts] = field(default_factory=dict)
    scheduled_changes: tuple[ScheduledPlanChange, ...] = ()
    overrides: tuple[Override, ...] = ()
    awaited_previews: tuple[AwaitedPreview, ...] = ()
    erased_ns: int | None = None
    moved: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, Any] | None = None
    awaited_bills: tuple[AwaitedBill, ...] = ()

    @property
    def recurring(self) -> dict[str, SubscriptionFacts]:
        """The subscriptions without the one-time purchases: what the provider can be asked for and can change."""
        return {key: entry for key, entry in self.subscriptions.items() if entry.subscription.purchase is None}

    def with_subscription(self, key: str, entry: SubscriptionFacts) -> Facts:
        """Return the facts with one subscription added or replaced; see `SubscriptionFacts.with_newest`."""
        kept = (self.scheduled_changes, self.overrides, self.awaited_previews, self.erased_ns, self.moved, self.kept)
        return Facts({**self.subscriptions, key: entry}, *kept, self.awaited_bills)


NOTHING = Facts()


def subscription_key(provider: str, subscription_id: str) -> str:
    """Return the key of a subscription within a tenant's facts."""
    return f"{provider}:{subscription_id}"
