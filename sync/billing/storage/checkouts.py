"""A checkout and the subscription that it made, where the provider's events about the one do not name the other's id.

Paddle's `transaction.paid` comes before the subscription and has no id of it; `subscription.created` has the id of the
transaction. Each event stores what it knows and reads what the other has stored, so they meet in any order of arrival.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sync.billing.domain.facts.model import Event, Order, Unparsable
from sync.billing.domain.tenant_resolution import (
    Link,
    Name,
    Strength,
    is_about_customer,
    is_unreal,
    naming_order,
    order_key,
)
from sync.billing.storage.links import find_link, with_name
from sync.store.command_pipeline import CommandPipeline, Script
from sync.store.store import Store

JOINED_WITHIN_S = 7 * 86_400
"""How long a checkout and its subscription wait for each other: longer than providers repeat a delivery."""

_JOIN = Script.load(__package__, "checkout_join")


def query_checkout(batch: CommandPipeline, event: Event | Unparsable) -> bool:
    """Add to `batch` the query for what made the event's subscription, or was made; return whether there is one."""
    if isinstance(event, Unparsable) or event.checkout_id is None or is_unreal(event):
        return False
    if event.subscription is not None:
        field, value = "subscription", event.subscription.id
    elif event.subscription_id is None and event.tenant_id is not None and not is_about_customer(event):
        field = Strength.SIGNED_CHECKOUT if event.is_signed else Strength.CHECKOUT
        value = f"{order_key(naming_order(event))} {event.tenant_id}"
    else:
        return False
    key = batch.keys.checkout(event.environment, event.provider, event.checkout_id)
    batch.script(_JOIN, (key,), field, value, str(JOINED_WITHIN_S))
    return True


async def with_checkout(store: Store, event: Event, link: Link | None, reply: Any) -> tuple[Event, Link | None]:
    """Return the event and its link with what is in `reply`, to `query_checkout`, about them.

    A checkout gets the subscription that it made. A subscription gets the names that its checkout gives.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    subscription_id, *names = [part.decode() for part in reply]
    if event.subscription is None:
        if not subscription_id:
            return event, link
        event = replace(event, subscription_id=subscription_id)
        return event, await find_link(store, event)
    assert link is not None
    for strength, text in zip((Strength.SIGNED_CHECKOUT, Strength.CHECKOUT), names, strict=True):
        if text:
            key, _, tenant_id = text.partition(" ")
            order = Order(int(key[:20]), int(key[20:40]), key[40:])
            link = await with_name(store, event, link, Name(strength, tenant_id, order))
    return event, link
