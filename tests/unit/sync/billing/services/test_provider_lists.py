"""A provider's lists under one cursor: a run that is stopped anywhere goes on behind what it has taken."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sync.billing.catalog import catalog
from sync.billing.domain.entitlements.items import Setting
from sync.billing.providers.base import ListedSubscription, ProviderClient, SubscriptionPage
from sync.billing.services.provider_lists import PAYMENTS, is_of_payments, payments_matter, read_page
from tests.unit.sync.billing.domain.facts.test_refunds import CATALOG, REVOKING

PLAIN = catalog.parse('[plans.free]\nname = "Free"\nrank = 0\ndefault = true\n')


def entry(id: str, cursor: str = "") -> ListedSubscription:
    return ListedSubscription(id, f"listed_{id}", b"{}", None, "", cursor)


class Lists:
    """Two subscriptions, and payments on two pages; the second object of the first one makes two entries."""

    async def subscriptions(self, after: str, max_wait_s: float) -> SubscriptionPage:
        return SubscriptionPage([entry("sub_1")], "sub_1") if not after else SubscriptionPage([entry("sub_2")], "")

    async def payments(self, after: str, max_wait_s: float, customer_id: str = "") -> SubscriptionPage:
        if not after:
            return SubscriptionPage([entry("a", "t:a"), entry("b", "t:b"), entry("b", "t:b")], "adjustments:")
        return SubscriptionPage([], "")


async def cursors(after: str = "", **how: Any) -> list[str]:
    """The cursors behind the entries, and of the pages, from a place on."""
    found = []
    while True:
        page = await read_page(cast(ProviderClient, Lists()), after, 1, **how)
        found += [*[each.after for each in page.entries], f"next {page.following}"]
        after = page.following
        if not after:
            return found


async def test_payments_follow_the_subscriptions() -> None:
    assert await cursors(with_payments=True) == [
        "sub_1",
        "next sub_1",
        "sub_2",
        f"next {PAYMENTS}",
        f"{PAYMENTS}t:a",
        # Who stops here has the first half of it alone, and takes it again.
        f"{PAYMENTS}t:a",
        f"{PAYMENTS}t:b",
        f"next {PAYMENTS}adjustments:",
        "next ",
    ]
    assert await cursors(with_payments=False) == ["sub_1", "next sub_1", "sub_2", "next "]
    assert is_of_payments(f"{PAYMENTS}t:a")
    assert not is_of_payments("sub_1")


@pytest.mark.parametrize(("using", "expected"), [(CATALOG, True), (REVOKING, True), (PLAIN, False)])
def test_payments_matter_where_purchases_are_sold_or_refunds_revoke(using: catalog.Catalog, expected: bool) -> None:
    assert payments_matter("paddle", Setting(using, "live", (), 0)) is expected
    assert payments_matter("paddle", Setting(using, "sandbox", (), 0)) is (using is REVOKING)
