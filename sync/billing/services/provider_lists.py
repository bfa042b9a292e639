"""A provider's lists, one after the other under one cursor: its subscriptions, then the payments if they matter.

Whoever rebuilds tenants reads both: a backfill, and a search for what the store has lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sync.billing.domain.entitlements.items import Setting
from sync.billing.providers.base import ListedSubscription, ProviderClient, SubscriptionPage

PAYMENTS = "payments "
"""How the cursors of payments begin. Subscriptions' are the provider's own."""


def payments_matter(provider: str, setting: Setting) -> bool:
    """Return whether what a provider's payments bought, or what went back of them, can change an entitlement."""
    return (provider, setting.environment) in setting.catalog.purchases or setting.catalog.policy.refund == "revoke"


def is_of_payments(after: str) -> bool:
    """Return whether a cursor is in the list of payments."""
    return after.startswith(PAYMENTS)


async def read_page(client: ProviderClient, after: str, max_wait_s: float, *, with_payments: bool) -> SubscriptionPage:
    """Return the page after a cursor; "" is the first one.

    Raises:
        ProviderUnavailable, ProviderRejected: the provider did not answer.
    """
    if not is_of_payments(after):
        page = await client.subscriptions(after, max_wait_s)
        return replace(page, following=page.following or (PAYMENTS if with_payments else ""))
    page = await client.payments(after.removeprefix(PAYMENTS), max_wait_s)
    following = f"{PAYMENTS}{page.following}" if page.following else ""
    return replace(page, entries=_placed(page.entries, after), following=following)


def _placed(entries: Sequence[ListedSubscription], after: str) -> list[ListedSubscription]:
    """Return entries with whole cursors. Of those that one object has made, the last alone is behind it."""
    placed, passed = [], after
    for number, entry in enumerate(entries, 1):
        if number == len(entries) or entries[number].cursor != entry.cursor:
            passed = f"{PAYMENTS}{entry.cursor}"
        placed.append(replace(entry, cursor=passed))
    return placed
