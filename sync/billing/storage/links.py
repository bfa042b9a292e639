"""The links from subscriptions to tenants, learned from events and set by operators.

A subscription's link is the tenant that it belongs to, beside all names that are known of it (`Link`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sync.billing.domain.facts.model import Event, Unparsable
from sync.billing.domain.tenant_resolution import (
    Link,
    Name,
    Strength,
    SubscriptionRef,
    is_ending,
    is_unreal,
    name_in,
    naming_order,
    order_key,
    with_learned,
)
from sync.billing.storage.customers import Customer, erase_customer, name_customer, query_customer
from sync.store.command_pipeline import CommandPipeline, Script, run_script
from sync.store.store import Store

_STRENGTHS = {str(strength): strength for strength in Strength}

_NAME = Script.load(__package__, "link_name")
_FLIP = Script.load(__package__, "link_flip")
_ERASE = Script.load(__package__, "link_erase")


async def find_link(store: Store, event: Event) -> Link | None:
    """Return the link of an event's subscription, storing the name that the event gives; None if it needs no tenant.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    batch = CommandPipeline(store)
    query_link(batch, event)
    return read_link(event, await batch.run())


def query_link(batch: CommandPipeline, event: Event | Unparsable) -> None:
    """Add to `batch` the query for an event's link; the name that the event gives is stored first.

    Nothing is queried for an event that needs no tenant. Parse the replies with `read_link`.
    """
    if isinstance(event, Unparsable) or is_unreal(event):
        return
    name = name_in(event)
    if event.subscription_id is None:
        name_customer(batch, event, name)
        return
    if name is None and event.subscription is None and event.refund is None:
        return
    store_name(batch, event)
    if name is not None:
        query_customer(batch, event, name)


def read_link(event: Event, replies: Sequence[Any]) -> Link | None:
    """Return an event's link from the replies to `query_link`; None if the event needs no tenant."""
    if not replies or event.subscription_id is None:
        return None
    return _event_link(event, name_in(event), replies)


async def with_name(store: Store, event: Event, link: Link, name: Name) -> Link:
    """Return the link of an event's subscription with a name, which is stored unless the link has it.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    if link.names.get(name.strength) == name.tenant_id:
        return link
    batch = CommandPipeline(store)
    _store(batch, SubscriptionRef.of(event), name, event.event_id)
    query_customer(batch, event, name)
    return with_learned(_event_link(event, name, await batch.run()), link)


def store_name(batch: CommandPipeline, event: Event) -> None:
    """Add to `batch` the storing of the name that the event gives to its subscription, if any, and the link's query."""
    name, ref = name_in(event), SubscriptionRef.of(event)
    if name is not None:
        _store(batch, ref, name, event.event_id)
        return
    is_body = event.subscription is not None and not is_ending(event)
    batch.script(_NAME, _keys(batch, ref), "", "", order_key(naming_order(event)) if is_body else "", event.event_id)


async def read_stored(store: Store, ref: SubscriptionRef) -> Link:
    """Return the link of a subscription as it is stored.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    (link,) = await read_all_stored(store, [ref])
    return link


async def read_all_stored(store: Store, refs: Sequence[SubscriptionRef]) -> list[Link]:
    """Return the links of subscriptions as they are stored.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    batch = CommandPipeline(store)
    for ref in refs:
        batch.script(_NAME, _keys(batch, ref), "", "", "", "")
    return [_link(reply) for reply in await batch.run()]


async def flip(
    store: Store,
    ref: SubscriptionRef,
    link: Link,
    tenant_id: str,
    strength: Strength | None = None,
    overruled: str = "",
) -> bool:
    """Give a subscription to a tenant, if its link is still `link`; return whether it was.

    Args:
        strength: stores the tenant as a name of this strength: GUESS or OPERATOR.
        overruled: the metadata's tenant that an operator's name overrules; "" for none, UNSEEN if it is not known.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    keys = _keys(CommandPipeline(store), ref)
    return bool(await run_script(store, _FLIP, keys, link.revision, tenant_id, strength or "", overruled))


def end_moves(batch: CommandPipeline, ref: SubscriptionRef, link: Link) -> None:
    """Add to `batch` the end of the moves in `link.left`: these tenants no longer have the subscription."""
    if link.left:
        _, names = _keys(batch, ref)
        batch.command("HDEL", names, *(f"left:{moved_us}" for moved_us in link.left))


async def name_subscriptions(store: Store, event: Event, customer: Customer) -> dict[str, Link]:
    """Store the names of a customer for all its subscriptions; return the links of these by the subscription's id.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    batch = CommandPipeline(store)
    for subscription_id in customer.subscriptions:
        ref = SubscriptionRef(event.environment, event.provider, subscription_id)
        for name in customer.names:
            _store(batch, ref, name, event.event_id)
    replies, last = await batch.run(), len(customer.names)
    return {
        subscription_id: _link(reply, customer.names[-1], customers_tenant=tenant)
        for (subscription_id, tenant), reply in zip(
            customer.subscriptions.items(), replies[last - 1 :: last], strict=True
        )
    }


def erase_links(batch: CommandPipeline, ref: SubscriptionRef, customer_id: str | None, tenant_id: str) -> None:
    """Add to `batch` the removal of a tenant's subscription from its customer; its link becomes a TOMBSTONE."""
    batch.script(_ERASE, _keys(batch, ref), tenant_id)
    batch.command("DEL", batch.keys.quote(ref.environment, ref.link_subject))
    if customer_id is not None:
        erase_customer(batch, ref, customer_id, tenant_id)


def _keys(batch: CommandPipeline, ref: SubscriptionRef) -> tuple[str, str]:
    return batch.keys.link(ref.environment, ref.link_subject), batch.keys.names(ref.environment, ref.link_subject)


def _store(batch: CommandPipeline, ref: SubscriptionRef, name: Name, event_id: str) -> None:
    batch.script(_NAME, _keys(batch, ref), name.strength, name.tenant_id, order_key(name.order), event_id)


def _event_link(event: Event, name: Name | None, replies: Sequence[Any]) -> Link:
    is_new, tenant = (bool(replies[1]), replies[2].decode()) if len(replies) > 1 else (False, None)
    return _link(replies[0], name, event.event_id, is_new, tenant)


def _link(
    reply: Any,
    name: Name | None = None,
    event_id: str | None = None,
    is_new: bool = False,
    customers_tenant: str | None = None,
) -> Link:
    """Return the link in a reply of `link_name`, which stored `name`, given by an event."""
    was, flat = reply[0].decode(), [value.decode() for value in reply[1]]
    stored = dict(zip(flat[::2], flat[1::2], strict=True))
    tenant_id = was or (name.tenant_id if name is not None else None)
    names: dict[Strength, str] = {}
    left: dict[int, str] = {}
    for field, value in stored.items():
        if field in _STRENGTHS:
            names[_STRENGTHS[field]] = value.rpartition(" ")[2]
        elif field.startswith("left:"):
            left[int(field[5:])] = value
    if was and not stored:
        names = {Strength.METADATA: was}
    return Link(
        tenant_id,
        names,
        stored.get("overruled", ""),
        dict(sorted(left.items())),
        int(stored.get("moved_us", 0)),
        int(stored.get("revision", 0)),
        learned_subscription=event_id is not None and stored.get("by") == event_id,
        learned_customer=is_new,
        customers_tenant=customers_tenant,
    )
