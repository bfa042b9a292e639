"""What was quoted for the latest confirmed change of a subscription, and which bills were compared with it."""

from __future__ import annotations

from sync.billing.domain.money.model import Billed
from sync.billing.domain.money.quote import Quote
from sync.billing.domain.tenant_resolution import TOMBSTONE, SubscriptionRef
from sync.store.command_pipeline import run_commands
from sync.store.store import Store


async def store_quote(store: Store, ref: SubscriptionRef, quote: Quote | None, now_ns: int) -> None:
    """Replace the quote of a subscription; None if its latest change has none.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    key = _key(store, ref)
    if quote is None:
        await run_commands(store, ("DEL", key))
        return
    fields, kept_s = ("HSET", key, "quote", quote.encode()), quote.kept_s(now_ns)
    await run_commands(store, ("DEL", key), fields, ("EXPIRE", key, kept_s))


async def find_quote(store: Store, ref: SubscriptionRef) -> Quote | None:
    """Return the quote of a subscription, for the tenant that has it now; None without a quote.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    link = store.keys.link(ref.environment, ref.link_subject)
    value, tenant = await run_commands(store, ("HGET", _key(store, ref), "quote"), ("GET", link))
    if value is None or (tenant is not None and tenant.decode() == TOMBSTONE):
        return None
    quote = Quote.decode(value)
    return quote if tenant is None else quote.of_topic(ref.topic(tenant.decode()))


async def claim_bill(store: Store, ref: SubscriptionRef, billed: Billed, event_id: str, kept_s: int) -> bool:
    """Return whether an event is the first one about a bill of its reason; also if it is repeated after a crash.

    Args:
        kept_s: seconds for which the quote is kept.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    key = _key(store, ref)
    claim = ("HSETNX", key, billed.reason, event_id)
    _, first, _ = await run_commands(store, claim, ("HGET", key, billed.reason), ("EXPIRE", key, kept_s))
    return first is not None and first.decode() == event_id


def _key(store: Store, ref: SubscriptionRef) -> str:
    return store.keys.quote(ref.environment, ref.link_subject)
