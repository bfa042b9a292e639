"""Whose an event is: the tenant that it names, or that its subscription or customer is linked to; or why nobody's.

It asks the links, and turns what they say into a tenant or an ending; it commits and parks nothing.
"""

from __future__ import annotations

from dataclasses import replace

from sync.billing.domain.model import Event
from sync.billing.providers.base import Unparsable
from sync.billing.storage.inbox import Ending
from sync.billing.storage.tenant_links import ERASED, Link, TenantLinks, customer_subject, subscription_subject
from sync.core.topic import LIVE, Topic, TopicError
from sync.store.command_pipeline import Batch

TENANT_KIND = "tenant"
TENANT_ERASED = "the tenant was erased"
"""Why an event is ignored whose tenant was erased before it came."""

ERASED_ENDING = Ending("ignored", TENANT_ERASED, keeps_body=False)


def usable(event: Event | Unparsable) -> Event | Unparsable:
    """Return the event, without a tenant that cannot be a topic's id."""
    if isinstance(event, Unparsable) or event.tenant_id is None or _is_id(event.tenant_id):
        return event
    return replace(event, tenant_id=None)


def hydrated(event: Event, fetched: Event) -> Event:
    """Return a thin event with what was fetched for it."""
    tenant_id = event.tenant_id or fetched.tenant_id
    return replace(
        event,
        order=fetched.order,
        tenant_id=tenant_id if tenant_id is not None and _is_id(tenant_id) else None,
        customer_id=fetched.customer_id,
        subscription=fetched.subscription,
    )


def is_unreal(event: Event) -> bool:
    """Return whether the provider's simulator made this up where real customers are."""
    return event.simulated and event.environment == LIVE


def named_topic(event: Event | Unparsable) -> str | None:
    """Return the topic of the tenant that the event itself names, if it may change it."""
    if isinstance(event, Unparsable) or event.tenant_id is None or event.subscription is None or is_unreal(event):
        return None
    return str(Topic(event.environment, TENANT_KIND, event.tenant_id))


def ask(batch: Batch, links: TenantLinks, event: Event | Unparsable) -> None:
    """Add to `batch` what tells an event's tenant; nothing for an event that needs none. `told` reads the replies."""
    if isinstance(event, Unparsable) or event.subscription_id is None or is_unreal(event):
        return
    if event.tenant_id is not None:
        links.learn(batch, event.provider, event.tenant_id, event.subscription_id, event.customer_id)
    elif event.subscription is not None:
        links.look_up(batch, event.provider, event.subscription_id, event.customer_id)


def told(event: Event, replies: list[object]) -> Link:
    """Return what the links said."""
    return (
        TenantLinks.learned(event.tenant_id, replies) if event.tenant_id is not None else TenantLinks.looked_up(replies)
    )


def unowned(event: Event, link: Link) -> Ending | None:
    """Return how the event ends if its tenant is not known, not certain, or erased."""
    if ERASED in (link.conflict, link.tenant_id):
        return ERASED_ENDING
    if link.conflict is not None:
        reason = f"names tenant {link.tenant_id}, but {event.subscription_id} belongs to {link.conflict}"
        return Ending("parked", reason, waits=tuple(subjects(event)[:1]))
    if link.tenant_id is not None:
        return None
    field = "metadata" if event.provider == "stripe" else "custom_data"
    reason = f"no tenant is known for {event.subscription_id}: {field}.tenant_id is missing or not an id"
    return Ending("parked", reason, waits=tuple(subjects(event)))


def subjects(event: Event) -> list[str]:
    """Return what an event about this subscription and customer may wait on."""
    assert event.subscription_id is not None
    found = [subscription_subject(event.provider, event.subscription_id)]
    if event.customer_id is not None:
        found.append(customer_subject(event.provider, event.customer_id))
    return found


def _is_id(text: str) -> bool:
    try:
        return Topic.parse(f"{TENANT_KIND}:{text}").id == text
    except TopicError:
        return False
