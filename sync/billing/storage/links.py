"""The links from subscriptions and customers to tenants, learned from events and set by operators.

A subscription's link is the tenant that it belongs to, beside all names that are known of it (`Link`). A customer's
links are the tenants that it pays for, by subscription, and those of its latest checkouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sync.billing.domain.facts.model import Event, Facts, Order, Unparsable, subscription_key
from sync.billing.domain.tenant_resolution import (
    Link,
    Name,
    Strength,
    SubscriptionRef,
    customer_subjects,
    is_ending,
    is_unreal,
    link_subjects,
    name_in,
    naming_order,
    order_key,
    subjects,
    with_learned,
)
from sync.store.command_pipeline import CommandPipeline, Script, run_script
from sync.store.store import Store

UNJOINED_CHECKOUT_S = 15 * 60
"""How long a paid checkout without a subscription counts for its customer: the subscription follows in seconds."""

CANDIDATES_MAX = 10
"""Maximum tenants of one customer that are read: two are enough to know that a guess is ambiguous."""

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
        if name is not None:
            key = _customer_key(batch, event, "metadata")
            batch.command("ZADD", key, "GT", name.order.occurred_ns // 1000, f"{name.strength} {name.tenant_id}")
            batch.command("ZREMRANGEBYRANK", key, 0, -1 - CANDIDATES_MAX)
        elif event.tenant_id is not None and event.customer_id is not None:
            key = _customer_key(batch, event, "checkouts")
            batch.command("SADD", key, event.tenant_id)
            batch.command("EXPIRE", key, UNJOINED_CHECKOUT_S)
        return
    if name is None and event.subscription is None:
        return
    store_name(batch, event)
    if name is not None:
        _query_customer(batch, event, name)


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
    _store(batch, _keys(batch, event.environment, subjects(event)[0]), name, event.event_id)
    _query_customer(batch, event, name)
    return with_learned(_event_link(event, name, await batch.run()), link)


def store_name(batch: CommandPipeline, event: Event) -> None:
    """Add to `batch` the storing of the name that the event gives to its subscription, if any, and the link's query."""
    name, keys = name_in(event), _keys(batch, event.environment, subjects(event)[0])
    if name is not None:
        _store(batch, keys, name, event.event_id)
        return
    is_body = event.subscription is not None and not is_ending(event)
    batch.script(_NAME, keys, "", "", order_key(naming_order(event)) if is_body else "", event.event_id)


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
        batch.script(_NAME, _keys(batch, ref.environment, ref.link_subject), "", "", "", "")
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
    keys = _keys(CommandPipeline(store), ref.environment, ref.link_subject)
    return bool(await run_script(store, _FLIP, keys, link.revision, tenant_id, strength or "", overruled))


def end_moves(batch: CommandPipeline, ref: SubscriptionRef, link: Link) -> None:
    """Add to `batch` the end of the moves in `link.left`: these tenants no longer have the subscription."""
    if link.left:
        _, names = _keys(batch, ref.environment, ref.link_subject)
        batch.command("HDEL", names, *(f"left:{moved_us}" for moved_us in link.left))


class Customer(NamedTuple):
    """What is known of a customer.

    Attributes:
        names: the tenants that its metadata name by its own events, the newest of each strength.
        subscriptions: the tenants of its subscriptions, by the subscription's id.
        tenants: those, and those of its checkouts of the last UNJOINED_CHECKOUT_S; CANDIDATES_MAX at most.
    """

    names: Sequence[Name] = ()
    subscriptions: Mapping[str, str] = {}
    tenants: Sequence[str] = ()


async def read_customer(store: Store, event: Event) -> Customer:
    """Return what is known of an event's customer; nothing if the name in the event is not accepted.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    if event.customer_id is None or event.name_problem:
        return Customer()
    batch = CommandPipeline(store)
    batch.command("ZRANGE", _customer_key(batch, event, "metadata"), 0, -1, "WITHSCORES", withscores=True)
    batch.command("HGETALL", _customer_key(batch, event, "subscriptions"))
    batch.command("SRANDMEMBER", _customer_key(batch, event, "checkouts"), CANDIDATES_MAX)
    # Older builds stored the tenants alone.
    batch.command("SRANDMEMBER", batch.keys.link(event.environment, customer_subjects(event)[0]), CANDIDATES_MAX)
    named, paid, *others = await batch.run()
    names: dict[str, Name] = {}
    for member, at_us in named:  # the newest last
        strength, _, tenant_id = member.decode().partition(" ")
        at_ns = int(at_us) * 1000
        # Of two of one instant the greater counts, as in the sorted set.
        names[strength] = Name(Strength(strength), tenant_id, Order(at_ns, at_ns, tenant_id))
    subscriptions = {subscription_id.decode(): tenant.decode() for subscription_id, tenant in paid.items()}
    tenants = {tenant.decode() for reply in others for tenant in reply} | set(subscriptions.values())
    return Customer(list(names.values()), subscriptions, sorted(tenants)[:CANDIDATES_MAX])


async def name_subscriptions(store: Store, event: Event, customer: Customer) -> dict[str, Link]:
    """Store the names of a customer for all its subscriptions; return the links of these by the subscription's id.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    batch = CommandPipeline(store)
    for subscription_id in customer.subscriptions:
        keys = _keys(batch, event.environment, link_subjects(event.provider, subscription_id, None)[0])
        for name in customer.names:
            _store(batch, keys, name, event.event_id)
    replies, last = await batch.run(), len(customer.names)
    return {
        subscription_id: _link(reply, customer.names[-1], customers_tenant=tenant)
        for (subscription_id, tenant), reply in zip(
            customer.subscriptions.items(), replies[last - 1 :: last], strict=True
        )
    }


def move_customer(batch: CommandPipeline, ref: SubscriptionRef, customer_id: str, link: Link) -> None:
    """Add to `batch` that a customer pays for the subscription's tenant, and no longer for those that it left."""
    assert link.tenant_id is not None
    key = batch.keys.customer(ref.environment, ref.provider, customer_id, "subscriptions")
    batch.command("HSET", key, ref.subscription_id, link.tenant_id)
    if link.left:
        old = link_subjects(ref.provider, ref.subscription_id, customer_id)[1]
        batch.command("SREM", batch.keys.link(ref.environment, old), *link.left.values())


def store_customers(batch: CommandPipeline, event: Event, tenant_id: str, before: Facts, after: Facts) -> None:
    """Add to `batch` that the customer of the event's subscription pays for the tenant, and that no other does.

    Also of a subscription that no event names, such as one that an operator has linked: it counts for guesses.
    """
    key = subscription_key(event.provider, str(event.subscription_id))
    was, now = before.subscriptions.get(key), after.subscriptions.get(key)
    if now is not None and now.customer is not None and (was is None or was.customer != now.customer):
        customer = batch.keys.customer(event.environment, *now.customer, "subscriptions")
        batch.command("HSETNX", customer, now.subscription.id, tenant_id)
    if now is not None:
        others = {event.customer_id, now.subscription.customer_id if was is None else was.subscription.customer_id}
        for customer_id in others - {now.subscription.customer_id, None}:
            _forget_customer(batch, event.environment, event.provider, now.subscription.id, str(customer_id))


def erase_links(batch: CommandPipeline, environment: str, subjects: Sequence[str], tenant_id: str) -> None:
    """Add to `batch` the removal of the links to a tenant; the subscription's becomes a TOMBSTONE."""
    subscription, *customers = subjects
    batch.script(_ERASE, _keys(batch, environment, subscription), tenant_id)
    _, provider, subscription_id = subscription.split(":", 2)
    for customer in customers:
        customer_id = customer.split(":", 2)[2]
        _forget_customer(batch, environment, provider, subscription_id, customer_id)
        batch.command("SREM", batch.keys.link(environment, customer), tenant_id)
        members = [f"{strength} {tenant_id}" for strength in (Strength.SIGNED_CUSTOMER, Strength.CUSTOMER)]
        batch.command("ZREM", batch.keys.customer(environment, provider, customer_id, "metadata"), *members)


def _store(batch: CommandPipeline, keys: tuple[str, str], name: Name, event_id: str) -> None:
    batch.script(_NAME, keys, name.strength, name.tenant_id, order_key(name.order), event_id)


def _query_customer(batch: CommandPipeline, event: Event, name: Name) -> None:
    """Add to `batch` that the event's customer, if any, pays for the named tenant, unless another one is stored."""
    if event.customer_id is not None:
        key = _customer_key(batch, event, "subscriptions")
        batch.command("HSETNX", key, event.subscription_id, name.tenant_id)
        batch.command("HGET", key, event.subscription_id)


def _event_link(event: Event, name: Name | None, replies: Sequence[Any]) -> Link:
    is_new, tenant = (bool(replies[1]), replies[2].decode()) if len(replies) > 1 else (False, None)
    return _link(replies[0], name, event.event_id, is_new, tenant)


def _customer_key(batch: CommandPipeline, event: Event, name: str) -> str:
    return batch.keys.customer(event.environment, event.provider, str(event.customer_id), name)


def _forget_customer(
    batch: CommandPipeline, environment: str, provider: str, subscription_id: str, customer_id: str
) -> None:
    batch.command("HDEL", batch.keys.customer(environment, provider, customer_id, "subscriptions"), subscription_id)


def _keys(batch: CommandPipeline, environment: str, subject: str) -> tuple[str, str]:
    return batch.keys.link(environment, subject), batch.keys.names(environment, subject)


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
