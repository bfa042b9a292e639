"""The tenants that a customer of a provider pays for: by subscription, and those of its latest checkouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sync.billing.domain.facts.model import Event, Facts, Order
from sync.billing.domain.tenant_resolution import Link, Name, Strength, SubscriptionRef, customer_subject
from sync.store.command_pipeline import CommandPipeline
from sync.store.store import Store

UNJOINED_CHECKOUT_S = 15 * 60
"""How long a paid checkout without a subscription counts for its customer: the subscription follows in seconds."""

CANDIDATES_MAX = 10
"""Maximum tenants of one customer that are read: two are enough to know that a guess is ambiguous."""


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
    batch.command("ZRANGE", _key(batch, event, event.customer_id, "metadata"), 0, -1, "WITHSCORES", withscores=True)
    batch.command("HGETALL", _key(batch, event, event.customer_id, "subscriptions"))
    batch.command("SRANDMEMBER", _key(batch, event, event.customer_id, "checkouts"), CANDIDATES_MAX)
    batch.command("SRANDMEMBER", _older_key(batch, event, event.customer_id), CANDIDATES_MAX)
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


def name_customer(batch: CommandPipeline, event: Event, name: Name | None) -> None:
    """Add to `batch` the tenant that an event without a subscription names for its customer, if it names one.

    Args:
        name: by the customer's metadata; None for a checkout.
    """
    if event.customer_id is None:
        return
    if name is not None:
        key = _key(batch, event, event.customer_id, "metadata")
        batch.command("ZADD", key, "GT", name.order.occurred_ns // 1000, f"{name.strength} {name.tenant_id}")
        batch.command("ZREMRANGEBYRANK", key, 0, -1 - CANDIDATES_MAX)
    elif event.tenant_id is not None:
        key = _key(batch, event, event.customer_id, "checkouts")
        batch.command("SADD", key, event.tenant_id)
        batch.command("EXPIRE", key, UNJOINED_CHECKOUT_S)


def query_customer(batch: CommandPipeline, event: Event, name: Name) -> None:
    """Add to `batch` that the event's customer, if any, pays for the named tenant, unless another one is stored."""
    if event.customer_id is not None and event.subscription_id is not None:
        key = _key(batch, event, event.customer_id, "subscriptions")
        batch.command("HSETNX", key, event.subscription_id, name.tenant_id)
        batch.command("HGET", key, event.subscription_id)


def move_customer(batch: CommandPipeline, ref: SubscriptionRef, customer_id: str, link: Link) -> None:
    """Add to `batch` that a customer pays for the subscription's tenant, and no longer for those that it left."""
    assert link.tenant_id is not None
    key = _key(batch, ref, customer_id, "subscriptions")
    batch.command("HSET", key, ref.subscription_id, link.tenant_id)
    if link.left:
        batch.command("SREM", _older_key(batch, ref, customer_id), *link.left.values())


def store_customers(batch: CommandPipeline, event: Event, tenant_id: str, before: Facts, after: Facts) -> None:
    """Add to `batch` that the customer of the event's subscription pays for the tenant, and that no other does.

    Also of a subscription that no event names, such as one that an operator has linked: it counts for guesses.
    """
    ref = SubscriptionRef.of(event)
    was, now = before.subscriptions.get(ref.key), after.subscriptions.get(ref.key)
    if now is not None and now.customer is not None and (was is None or was.customer != now.customer):
        customer = batch.keys.customer(event.environment, *now.customer, "subscriptions")
        batch.command("HSETNX", customer, now.subscription.id, tenant_id)
    if now is not None:
        others = {event.customer_id, now.subscription.customer_id if was is None else was.subscription.customer_id}
        for customer_id in others - {now.subscription.customer_id, None}:
            _forget(batch, ref, str(customer_id))


def erase_customer(batch: CommandPipeline, ref: SubscriptionRef, customer_id: str, tenant_id: str) -> None:
    """Add to `batch` that a customer no longer pays for a subscription's tenant, and does not name it."""
    _forget(batch, ref, customer_id)
    batch.command("SREM", _older_key(batch, ref, customer_id), tenant_id)
    members = [f"{strength} {tenant_id}" for strength in (Strength.SIGNED_CUSTOMER, Strength.CUSTOMER)]
    batch.command("ZREM", _key(batch, ref, customer_id, "metadata"), *members)


def _key(batch: CommandPipeline, of: Event | SubscriptionRef, customer_id: str, name: str) -> str:
    return batch.keys.customer(of.environment, of.provider, customer_id, name)


def _older_key(batch: CommandPipeline, of: Event | SubscriptionRef, customer_id: str) -> str:
    """Return the key of the customer's tenants as older builds stored them, without their subscriptions."""
    return batch.keys.link(of.environment, customer_subject(of.provider, customer_id))


def _forget(batch: CommandPipeline, ref: SubscriptionRef, customer_id: str) -> None:
    batch.command("HDEL", _key(batch, ref, customer_id, "subscriptions"), ref.subscription_id)
