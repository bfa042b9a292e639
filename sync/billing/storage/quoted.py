"""What was quoted for the confirmed changes of a subscription, and which bills were compared with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sync.billing.domain.money.model import Billed
from sync.billing.domain.money.quote import QUOTES_MAX, Quote, quote_of
from sync.billing.domain.tenant_resolution import TOMBSTONE, SubscriptionRef
from sync.store.command_pipeline import run_commands
from sync.store.store import Store


class Quoted(NamedTuple):
    """Each quote of a subscription, for the tenant that has it now, and their bills.

    `claims`: (preview id, reason) -> the id of the bill that was compared with the quote.
    """

    kept: Sequence[Quote] = ()
    claims: Mapping[tuple[str, str], str] = {}

    def kept_s(self, now_ns: int) -> int:
        """Return for how many seconds from now one of them can be compared."""
        return max((quote.kept_s(now_ns) for quote in self.kept), default=0)

    def of_bill(self, billed: Billed) -> Quote | None:
        """Return the quote that a bill is of; None if it is of none."""
        return quote_of(billed, self.kept, self.claims)


async def store_quote(store: Store, ref: SubscriptionRef, quote: Quote, now_ns: int) -> None:
    """Add the quote of a subscription's latest confirmed change, and drop those that no bill can be of any more.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    key = _key(store, ref)
    (stored,) = await run_commands(store, ("HGETALL", key))
    fields = _fields(stored)
    earlier = sorted(_quotes(fields), key=lambda each: each.confirmed_ns, reverse=True)
    # The newest one counts again if the provider refuses this change.
    open_ones = [each for each in earlier[1 : QUOTES_MAX - 1] if each.is_open_for_change(now_ns)]
    kept = {each.preview_id for each in (*earlier[:1], *open_ones)}
    void = [name for name in fields if name.partition(":")[0] not in kept]
    commands = [("HSET", key, quote.preview_id, quote.encode()), ("EXPIRE", key, quote.kept_s(now_ns))]
    await run_commands(store, *([("HDEL", key, *void)] if void else []), *commands)


async def drop_quote(store: Store, ref: SubscriptionRef, preview_id: str) -> None:
    """Remove the quote of a change that was not made.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    await run_commands(store, ("HDEL", _key(store, ref), preview_id))


async def find_quoted(store: Store, ref: SubscriptionRef) -> Quoted:
    """Return each quote of a subscription, and the bills that were compared with them.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    link = store.keys.link(ref.environment, ref.link_subject)
    stored, tenant = await run_commands(store, ("HGETALL", _key(store, ref)), ("GET", link))
    fields = _fields(stored)
    if not fields or (tenant is not None and tenant.decode() == TOMBSTONE):
        return Quoted()
    found = _quotes(fields)
    if tenant is not None:
        found = [quote.of_topic(ref.topic(tenant.decode())) for quote in found]
    claims = {}
    for name, value in fields.items():
        preview_id, is_claim, reason = name.partition(":")
        if is_claim:
            claims[preview_id, reason] = value.decode().partition(" ")[0]
    return Quoted(found, claims)


async def claim_bill(
    store: Store, ref: SubscriptionRef, quote: Quote, billed: Billed, event_id: str, kept_s: int
) -> bool:
    """Return whether an event is the first one about a bill of its quote; also if it is repeated after a crash.

    Args:
        kept_s: seconds for which each quote is kept.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    key, field, value = _key(store, ref), f"{quote.preview_id}:{billed.reason}", f"{billed.id} {event_id}"
    claim, kept = ("HSETNX", key, field, value), ("EXPIRE", key, kept_s)
    _, first, _ = await run_commands(store, claim, ("HGET", key, field), kept)
    return first is not None and first.decode() == value


def _quotes(fields: Mapping[str, bytes]) -> list[Quote]:
    return [Quote.decode(value) for name, value in fields.items() if ":" not in name]


def _fields(reply: object) -> dict[str, bytes]:
    if isinstance(reply, dict):
        return {name.decode(): value for name, value in reply.items()}
    assert isinstance(reply, list)
    return {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}


def _key(store: Store, ref: SubscriptionRef) -> str:
    return store.keys.quote(ref.environment, ref.link_subject)
