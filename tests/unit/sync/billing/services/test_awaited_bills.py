"""A quoted charge of which no bill arrives is reported, once the provider was asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sync.billing.domain.entitlements.awaited import await_preview
from sync.billing.domain.entitlements.preview import PreviewRequest, preview
from sync.billing.domain.facts.model import Facts
from sync.billing.domain.money.model import CHANGE, Bill, Billed, Line, Money
from sync.billing.domain.money.quote import Quote
from sync.billing.domain.tenant_resolution import SubscriptionRef
from sync.billing.providers.base import ProviderUnavailable
from sync.billing.services.reproject import Refresh
from sync.billing.storage.quoted import store_quote
from sync.core import instants
from tests.support.paddle import price_id
from tests.support.services import DAY_S, TOPIC, Billing, PaddleApi

REF = SubscriptionRef("live", "paddle", "sub_1")
NOW = Bill((Line(price_id("pro"), 2, 1000, proration=True),), total=1000, due=1000)
NEXT = Bill((Line(price_id("pro"), 2, 2000),), total=2000, due=2000)


class Api(PaddleApi):
    """An API that lists bills."""

    billed: Sequence[Billed] = ()

    async def bills(self, subscription_id: str, since_ns: int, max_wait_s: float) -> Sequence[Billed]:
        """Return them."""
        self.asked.append(f"bills of {subscription_id} since {instants.text(since_ns)}")
        if self.failure is not None:
            raise self.failure
        return [bill for bill in self.billed if bill.at_ns >= since_ns]


async def landed(services: Billing, *, days: int = 10) -> Quote:
    """Two seats of Pro, confirmed with a quote, and made."""
    await services.receive(id="sub_1", customer_id="ctm_1", items=[(price_id("pro"), 1)])
    now_ns = services.now_ns()
    money = Money("USD", 2, NOW, NEXT, now_ns + days * DAY_S * 10**9, now_ns)

    def confirm(facts: Facts) -> Facts:
        foreseen = preview(facts, PreviewRequest("pro", 2), services.setting("live"))
        return await_preview(facts, "pv_1", foreseen, now_ns, money)

    await services.reprojection.refresh("live", TOPIC, Refresh({"source": "app"}, change=confirm))
    quote = Quote("pv_1", TOPIC, money, now_ns)
    await store_quote(services.store, REF, quote, now_ns)
    services.clock.advance(1)
    await services.receive(id="sub_1", customer_id="ctm_1", items=[(price_id("pro"), 2)])
    return quote


async def drift(services: Billing) -> list[Any]:
    return [one for one in (await services.environment("live").drifts.page("", 100))[0] if one["kind"] == "money"]


def billed(services: Billing, bill: Bill = NOW) -> Billed:
    return Billed("txn_1", "sub_1", CHANGE, "USD", services.now_ns(), bill)


async def test_a_change_without_a_bill_is_reported_after_a_day(services: Billing) -> None:
    await landed(services)
    version = (await services.store.read(TOPIC)).version
    services.clock.advance(DAY_S - 3600)
    await services.fire_due()
    assert await drift(services) == []
    services.clock.advance(3600)
    assert await services.fire_due() == 1
    (record,) = await drift(services)
    assert (record["topic"], record["subject"]) == (TOPIC, "pv_1")
    assert record["why"] == "change not billed: no bill of it has arrived"
    assert record["here"] == {"currency": "USD", "due_now": 1000}
    assert "there" not in record
    assert (await services.store.read(TOPIC)).version == version
    assert [bill.reason for bill in (await services.facts()).awaited_bills] == ["renewal"]
    assert await services.fire_due() == 0


async def test_one_that_the_provider_has_is_compared(services: Billing) -> None:
    quote = await landed(services)
    api = Api(services)
    api.billed = [billed(services)]
    services.clock.advance(DAY_S)
    await services.fire_due()
    assert await drift(services) == []
    assert api.asked == [f"bills of sub_1 since {instants.text(quote.confirmed_ns - 30 * 10**9)}"]


async def test_one_that_the_provider_has_otherwise_is_drift(services: Billing) -> None:
    await landed(services)
    api = Api(services)
    api.billed = [billed(services, NOW._replace(total=1200, due=1200))]
    services.clock.advance(DAY_S)
    await services.fire_due()
    (record,) = await drift(services)
    assert record["why"] == "change billed as txn_1"


async def test_a_provider_that_is_away_is_no_reason_to_be_silent(services: Billing) -> None:
    await landed(services)
    api = Api(services)
    api.failure = ProviderUnavailable("timeout")
    services.clock.advance(DAY_S)
    await services.fire_due()
    assert [record["why"] for record in await drift(services)] == ["change not billed: no bill of it has arrived"]


async def test_a_renewal_without_a_bill_is_reported_three_days_later(services: Billing) -> None:
    await landed(services)
    services.clock.advance(DAY_S)
    await services.fire_due()
    services.clock.advance(9 * DAY_S)
    period = {"starts_at": instants.text(services.now_ns()), "ends_at": instants.text(services.now_ns() + 30 * DAY_S)}
    await services.receive(id="sub_1", customer_id="ctm_1", items=[(price_id("pro"), 2)], current_billing_period=period)
    services.clock.advance(3 * DAY_S)
    await services.fire_due()
    renewal, _ = await drift(services)
    assert (renewal["why"], renewal["here"]) == (
        "renewal not billed: no bill of it has arrived",
        {"currency": "USD", "amount": 2000},
    )
    assert (await services.facts()).awaited_bills == ()


async def test_a_renewal_that_was_never_due_is_not_missed(services: Billing) -> None:
    quote = await landed(services)
    await store_quote(services.store, REF, replace(quote, money=None), services.now_ns())
    services.clock.advance(1)
    await services.receive(id="sub_1", customer_id="ctm_1", status="canceled", kind="subscription.canceled")
    services.clock.advance(14 * DAY_S)
    await services.fire_due()
    assert await drift(services) == []
