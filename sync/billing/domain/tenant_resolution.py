"""Which tenant an event belongs to: the one it names, or the one its subscription or customer is linked to. Pure.

`storage.tenants` reads the links; this module turns them into a tenant, or into the result of an event without one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from planwire_client.core.topic import LIVE, TENANT_KIND, Topic
from sync.billing.domain.evaluation import Setting, is_ignored, unknown_prices
from sync.billing.domain.model import Event, Unparsable
from sync.billing.domain.outcome import (
    ERASED,
    OTHER_SOFTWARE,
    WAITS_CATALOG,
    WAITS_SOFTWARE,
    EventResult,
    Outcome,
)
from sync.billing.domain.tenant_naming import UNSIGNED, Naming, sanitize

TOMBSTONE = "!erased"
"""Stored in a link instead of a tenant id once the tenant is erased; not a valid tenant id."""


@dataclass(frozen=True, slots=True)
class Link:
    """What the links say about an event.

    Attributes:
        tenant_id: the tenant that the event names, or that the links lead to; None if neither.
        learned_subscription, learned_customer: whether the event was the first to name the tenant of these.
        conflict: the other tenant that the subscription belongs to, if the event names a wrong one.
    """

    tenant_id: str | None
    learned_subscription: bool = False
    learned_customer: bool = False
    conflict: str | None = None


def with_fetched(event: Event, fetched: Event, naming: Naming = UNSIGNED) -> Event:
    """Return a thin event with the body that was fetched for it."""
    named = sanitize(fetched, naming) if event.tenant_id is None else event
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


def unresolved(event: Event, link: Link, setting: Setting) -> EventResult | None:
    """Return the result of an event whose tenant is unknown, in conflict or erased; None if it is known."""
    if TOMBSTONE in (link.conflict, link.tenant_id):
        return ERASED
    # An edit of the catalog may say that other software sells it.
    waits = (WAITS_CATALOG,) if unknown_prices(event, setting) else ()
    if link.conflict is not None:
        reason = f"names tenant {link.tenant_id}, but {event.subscription_id} belongs to {link.conflict}"
        return EventResult(Outcome.PARKED, reason, waits=(*subjects(event)[:1], *waits))
    if link.tenant_id is not None:
        return None
    if is_ignored(event, setting):
        return OTHER_SOFTWARE
    if event.name_problem:
        # A worker that starts with another secret retries it, and so does an edited policy.
        reason = f"no tenant is known for {event.subscription_id}: {event.name_problem}"
        return EventResult(Outcome.PARKED, reason, waits=(subjects(event)[0], WAITS_SOFTWARE, WAITS_CATALOG))
    reason = f"no tenant is known for {event.subscription_id}: {event.unnamed}"
    return EventResult(Outcome.PARKED, reason, waits=(*subjects(event), *waits))


def subjects(event: Event) -> tuple[str, ...]:
    """Return the link subjects that the event may wait on: its subscription, and its customer if it names one."""
    assert event.subscription_id is not None
    return link_subjects(event.provider, event.subscription_id, event.customer_id)


def lookup_subjects(event: Event) -> tuple[str, ...]:
    """Return the link subjects that may tell an unnamed event's tenant.

    A name that is not accepted is no reason to guess by the customer: only what is known of the subscription counts.
    """
    return subjects(event)[:1] if event.name_problem else subjects(event)


def link_subjects(provider: str, subscription_id: str, customer_id: str | None) -> tuple[str, ...]:
    """Return the link subjects of a subscription, and of its customer if there is one."""
    subscription = f"subscription:{provider}:{subscription_id}"
    return (subscription, f"customer:{provider}:{customer_id}") if customer_id else (subscription,)
