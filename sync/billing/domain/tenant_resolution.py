"""Which tenant a subscription belongs to: the strongest name that is known of it. Pure.

A subscription has one tenant at a time. An operator's link, its metadata, the checkout that made it and its customer
each may name one. Every name is kept with the order of its event, so that the tenant is the same for every order of
arrival; guesses alone depend on what was known at the time. `storage.links` stores names; `services.move` moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from planwire_client.core.topic import LIVE, TENANT_KIND, Topic
from sync.billing.domain.entitlements.items import Setting, is_ignored, unknown_prices
from sync.billing.domain.facts.model import ENDED_STATUSES, Event, Order, Unparsable, subscription_key
from sync.billing.domain.facts.order import is_from_future
from sync.billing.domain.facts.steps import Kind
from sync.billing.domain.outcome import (
    ERASED,
    OTHER_SOFTWARE,
    WAITS_CATALOG,
    WAITS_SOFTWARE,
    EventResult,
    Outcome,
)

TOMBSTONE = "!erased"
"""Stored in a link instead of a tenant id once the tenant is erased; not a valid tenant id."""

CUSTOMERS = "customer."
"""How the places of names in a customer's metadata begin (`model.NamePlace`)."""

UNSEEN = "*"
"""What an operator's link overrules whose subscription's metadata is not known: the first that becomes known."""

CANDIDATES_SHOWN = 2
"""Maximum tenants in the reason of an ambiguous guess."""


class Strength(StrEnum):
    """What names a subscription's tenant, the strongest first. The values are stored, so they never change."""

    OPERATOR = "operator"
    """An operator's link. It holds until the metadata value that it overruled changes."""
    SIGNED = "signed"
    """A verified signed reference in the subscription's metadata; the newest body counts."""
    SIGNED_CHECKOUT = "signed_checkout"
    """A verified signed reference in the checkout that made it; the oldest one counts."""
    METADATA = "metadata"
    """The subscription's own metadata; the newest body counts."""
    CHECKOUT = "checkout"
    """The checkout or transaction that made the subscription: the oldest one that names a tenant."""
    SIGNED_CUSTOMER = "signed_customer"
    """A verified signed reference in the metadata of its customer; the newest one counts."""
    CUSTOMER = "customer"
    """The metadata of its customer: in its own body, by the API or by the customer's own event; the newest counts."""
    GUESS = "guess"
    """The only tenant of its customer."""
    ENDING = "ending"
    """The metadata of a body that ends the subscription: it counts only if nothing else has named a tenant."""


_STRENGTHS = tuple(Strength)
"""The strongest first. To iterate the class is slow."""

VOUCHING = (Strength.OPERATOR, Strength.SIGNED, Strength.SIGNED_CHECKOUT, Strength.SIGNED_CUSTOMER)
"""The names beyond doubt: nobody but an operator or the application's back end can give them."""


class Name(NamedTuple):
    """A tenant's name for a subscription, as one event gives it."""

    strength: Strength
    tenant_id: str
    order: Order


@dataclass(frozen=True, slots=True)
class Link:
    """What is stored about a subscription's tenant.

    Attributes:
        tenant_id: the tenant that the subscription belongs to; TOMBSTONE once that is erased; None: not known yet.
        names: the tenants by which it is named, one per strength.
        overruled: the metadata's tenant that an operator's link overruled; "" for none, UNSEEN if it is not known yet.
        left: the tenants that it was moved from and that may still have it, by the time of the move (us).
        moved_us: the time of the last move, microseconds since 1970; 0 for never. It rises with every move.
        revision: rises with every change of the names and of the tenant.
        learned_subscription: whether the names were last changed by this event.
        learned_customer: whether this event was the first to name a tenant for its customer and subscription.
        customers_tenant: the tenant that is stored for the subscription among its customer's; None if unknown.
    """

    tenant_id: str | None
    names: Mapping[Strength, str] = field(default_factory=dict)
    overruled: str = ""
    left: Mapping[int, str] = field(default_factory=dict)
    moved_us: int = 0
    revision: int = 0
    learned_subscription: bool = False
    learned_customer: bool = False
    customers_tenant: str | None = None


def name_in(event: Event) -> Name | None:
    """Return the tenant's name that an event gives to its subscription, or to its customer's; None if it gives none."""
    if event.tenant_id is None or (event.subscription_id is None and not is_about_customer(event)):
        return None
    if is_ending(event):
        strength = Strength.ENDING
    elif event.named_by.startswith(CUSTOMERS):
        strength = Strength.SIGNED_CUSTOMER if event.is_signed else Strength.CUSTOMER
    elif event.subscription is None:
        # A thin event has no name before it is fetched, so this is a checkout or a transaction.
        strength = Strength.SIGNED_CHECKOUT if event.is_signed else Strength.CHECKOUT
    else:
        strength = Strength.SIGNED if event.is_signed else Strength.METADATA
    return Name(strength, event.tenant_id, naming_order(event))


def naming_order(event: Event) -> Order:
    """Return an event's place among those that name the same subscription's tenant.

    Within an instant of a coarse clock the creation is first, and what changes the metadata is last. An event from the
    future counts as of its receipt, and beside others from the future by its own time (`link_name.lua`).
    """
    order = event.order
    if event.step is not None:
        rank = 2 if event.renames else min(event.step.kind, Kind.CHANGE)
        order = order._replace(event_id=f"{rank}{order.event_id}")
    if event.received_ns and is_from_future(order, event.received_ns):
        return Order(event.received_ns, event.received_ns, f"@{order_key(order)}")
    return order


def received(event: Event, at_us: int) -> Event:
    """Return the event with the time of its first receipt, if its name depends on that."""
    return replace(event, received_ns=at_us * 1000) if is_from_future(event.order, at_us * 1000) else event


def is_about_customer(event: Event) -> bool:
    """Return whether the event names a tenant by the metadata of a customer, and is about no subscription."""
    is_named = event.tenant_id is not None and event.named_by.startswith(CUSTOMERS)
    return is_named and event.subscription_id is None and event.customer_id is not None


def is_ending(event: Event) -> bool:
    """Return whether the event ends its subscription. It does so wherever the subscription is, whoever it names."""
    return event.subscription is not None and event.subscription.status in ENDED_STATUSES


def strongest(link: Link) -> tuple[Strength, str] | None:
    """Return the strongest name of a subscription and its tenant; None if nothing names one."""
    names = link.names
    for strength in _STRENGTHS:
        if strength not in names:
            continue
        if strength is not Strength.OPERATOR or link.overruled in (UNSEEN, overruled_by_operator(link)):
            return strength, names[strength]
    return None


def overruled_by_operator(link: Link) -> str:
    """Return the tenant that the subscription's metadata names, which an operator's link overrules; "" for none."""
    return link.names.get(Strength.SIGNED) or link.names.get(Strength.METADATA, "")


def is_vouched(link: Link) -> bool:
    """Return whether a signed reference or an operator has given the subscription to its tenant."""
    return link.tenant_id in [link.names[strength] for strength in VOUCHING if strength in link.names]


def vouched(event: Event, link: Link) -> Event:
    """Return the event with `is_signed` as the link has it, whatever the event itself names."""
    is_signed = is_vouched(link)
    return event if is_signed == event.is_signed else replace(event, is_signed=is_signed)


def with_learned(link: Link, earlier: Link) -> Link:
    """Return a link that was read again, with what `earlier` says of the event and of its customer."""
    return replace(
        link,
        learned_subscription=earlier.learned_subscription or link.learned_subscription,
        learned_customer=earlier.learned_customer or link.learned_customer,
        customers_tenant=link.customers_tenant or earlier.customers_tenant,
    )


def order_key(order: Order) -> str:
    """Return a text that sorts bytewise as the order does."""
    return "".join(f"{max(part, 0):020d}" if isinstance(part, int) else part for part in order)


def with_fetched(event: Event, fetched: Event) -> Event:
    """Return a thin event with the body that was fetched for it, and the tenant that this names unless it does."""
    named = fetched if event.tenant_id is None else event
    return replace(
        event,
        order=fetched.order,
        tenant_id=named.tenant_id,
        is_signed=named.is_signed,
        name_problem=named.name_problem,
        names=named.names,
        named_by=named.named_by,
        unnamed=named.unnamed,
        customer_id=fetched.customer_id,
        subscription=fetched.subscription,
    )


def is_unreal(event: Event) -> bool:
    """Return whether this is a simulated event in the live environment."""
    return event.simulated and event.environment == LIVE


def named_topic(event: Event | Unparsable) -> str | None:
    """Return the topic of the tenant that the event itself names, if the event may change it."""
    if isinstance(event, Unparsable) or event.tenant_id is None or event.subscription is None or is_unreal(event):
        return None
    return tenant_topic(event.environment, event.tenant_id)


def tenant_topic(environment: str, tenant_id: str) -> str:
    """Return the name of a tenant's topic."""
    return str(Topic(environment, TENANT_KIND, tenant_id))


def unresolved(event: Event, link: Link, setting: Setting, candidates: Sequence[str] = ()) -> EventResult | None:
    """Return the result of an event whose tenant is unknown or erased; None if it is known.

    Args:
        candidates: the tenants of the event's customer, if there are several.
    """
    if link.tenant_id == TOMBSTONE:
        return ERASED
    if link.tenant_id is not None:
        return None
    if is_ignored(event, setting):
        return OTHER_SOFTWARE
    if event.name_problem:
        # A worker that starts with another secret retries it, and so does an edited policy.
        reason = f"no tenant is known for {event.subscription_id}: {event.name_problem}"
        return EventResult(Outcome.PARKED, reason, waits=(subjects(event)[0], WAITS_SOFTWARE, WAITS_CATALOG))
    reason = f"no tenant is known for {event.subscription_id}: {event.unnamed}"
    # An edit of the catalog may say that other software sells it.
    waits: tuple[str, ...] = (WAITS_CATALOG,) if unknown_prices(event, setting) else ()
    # A worker that starts with other PLANWIRE_TENANT_FIELDS retries it.
    waits += (WAITS_SOFTWARE,) if any(place.value for place in event.names) else ()
    if not candidates:
        return EventResult(Outcome.PARKED, reason, waits=(*subjects(event), *waits))
    shown = " and ".join(sorted(candidates)[:CANDIDATES_SHOWN])
    reason += f"; its customer {event.customer_id} pays for {shown}: it waits until it is named, or linked"
    return EventResult(Outcome.PARKED, reason, waits=(subjects(event)[0], customer_subjects(event)[1], *waits))


@dataclass(frozen=True, slots=True)
class SubscriptionRef:
    """A subscription of a provider's environment."""

    environment: str
    provider: str
    subscription_id: str

    @classmethod
    def of(cls, event: Event) -> SubscriptionRef:
        """Return the subscription of an event that has one."""
        return cls(event.environment, event.provider, str(event.subscription_id))

    @property
    def key(self) -> str:
        """Its key within a tenant's facts."""
        return subscription_key(self.provider, self.subscription_id)

    @property
    def link_subject(self) -> str:
        """The subject of its link."""
        return f"subscription:{self.provider}:{self.subscription_id}"

    def topic(self, tenant_id: str) -> str:
        """Return the topic of a tenant of its environment."""
        return tenant_topic(self.environment, tenant_id)


def subjects(event: Event) -> tuple[str, ...]:
    """Return the link subjects that the event may wait on: its subscription, and its customer if it names one."""
    assert event.subscription_id is not None
    subscription = SubscriptionRef.of(event).link_subject
    return (subscription, customer_subject(event.provider, event.customer_id)) if event.customer_id else (subscription,)


def customer_subjects(event: Event) -> tuple[str, str]:
    """Return what waits for any name of the event's customer, and what waits for that in its metadata."""
    any_name = customer_subject(event.provider, str(event.customer_id))
    return any_name, f"customer-metadata:{event.provider}:{event.customer_id}"


def customer_subject(provider: str, customer_id: str) -> str:
    """Return the link subject of a customer."""
    return f"customer:{provider}:{customer_id}"
