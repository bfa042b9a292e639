"""Purchases have a tenant as subscriptions do: they are linked, moved, erased, and never asked for as subscriptions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.outcome import EventResult, Outcome, revival_of
from sync.billing.domain.tenant_resolution import SubscriptionRef
from sync.billing.providers.base import SubscriptionPage
from sync.core import instants
from tests.support.acme import ACME
from tests.support.bodies import envelope
from tests.support.services import TOPIC, Billing, billing
from tests.unit.sync.billing.domain.facts.test_refunds import TEXT

OTHER = "tenant:other"
KEY = "paddle:txn_1"
REF = SubscriptionRef("live", "paddle", "txn_1")


class Asked:
    """A client of the provider's API that only notes what it is asked for."""

    checkout_prefix = "txn_"

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def fetch(self, subscription_id: str, *_: Any, **__: Any) -> Any:
        self.ids.append(subscription_id)
        raise AssertionError("a purchase is no subscription")

    async def payments(self, after: str, max_wait_s: float, customer_id: str = "") -> SubscriptionPage:
        self.ids.append(customer_id)
        return SubscriptionPage([], "")


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Billing]:
    path = tmp_path / "catalog.toml"
    path.write_text(TEXT)
    with billing(CatalogWatcher(path)) as services:
        yield services


async def buy(services: Billing, tenant: str | None = "acme", kind: str = "completed", **fields: Any) -> EventResult:
    """Take the event of a paid transaction of now."""
    services.clock.advance(1)
    now = instants.text(services.now_ns())
    price = {"id": "pri_life", "billing_cycle": None, "unit_price": {"amount": "1900", "currency_code": "USD"}}
    data = {
        "id": "txn_1",
        "subscription_id": None,
        "customer_id": "ctm_1",
        "custom_data": {"tenant_id": tenant} if tenant else None,
        "items": [{"price": price, "quantity": 1}],
        "billed_at": "2026-11-01T00:00:00Z",
        "updated_at": now,
        **fields,
    }
    return await receive(services, f"transaction.{kind}", now, data)


async def refund(services: Billing, total: int = 1900, *, of: str = "txn_1", id: str = "adj_1") -> EventResult:
    """Take the event of a refund of now."""
    services.clock.advance(1)
    now = instants.text(services.now_ns())
    data: dict[str, Any] = {
        "id": id,
        "action": "refund",
        "status": "approved",
        "transaction_id": of,
        "customer_id": "ctm_1",
    }
    data |= {"totals": {"total": str(total)}, "created_at": now, "updated_at": now}
    return await receive(services, "adjustment.created", now, data)


async def receive(services: Billing, kind: str, now: str, data: dict[str, Any]) -> EventResult:
    body = orjson.dumps(envelope(data, event_type=kind, occurred_at=now))
    return await services.ingest.receive(services.adapters["paddle"], body, "live")


async def test_a_purchase_moves_to_the_tenant_that_its_newest_body_names(services: Billing) -> None:
    await buy(services, "acme", "paid")
    await refund(services, 500)
    await buy(services, "other")
    assert (await services.plan(), await services.plan(OTHER)) == ("free", "lifetime")
    assert (await services.facts(OTHER)).subscriptions[KEY].refunds.keys() == {"adj_1"}
    assert (await refund(services)).topic == OTHER
    assert await services.plan(OTHER) == "free"


async def test_an_operator_gives_it_to_a_tenant(services: Billing) -> None:
    assert (await buy(services, None)).outcome is Outcome.PARKED
    assert (await refund(services)).outcome is Outcome.PARKED
    await services.operator_links.link(REF, "acme", "bought by mail", {"by": "support"})
    (entry,) = (await services.facts()).subscriptions.values()
    assert (entry.is_vouched, entry.subscription.status) == (True, "canceled")
    assert await services.environment("live").inbox.parked(None, 10) == []


async def test_a_refund_waits_for_its_purchase_whatever_else_its_customer_pays_for(services: Billing) -> None:
    await services.receive(items=[("pri_basic", 1)])
    early = await refund(services)
    assert (early.outcome, early.reason) == (Outcome.PARKED, "refund of 1900 for txn_1, which is not known yet")
    await services.receive(items=[("pri_pro", 1)])
    assert len(await services.environment("live").inbox.parked(None, 10)) == 1
    assert (await buy(services)).outcome is Outcome.APPLIED
    assert (await services.facts()).subscriptions[KEY].subscription.status == "canceled"
    assert await services.environment("live").inbox.parked(None, 10) == []


async def test_a_refund_is_not_parked_for_the_unknown_price_of_another_event(services: Billing) -> None:
    await services.receive(items=[("pri_basic", 1), ("pri_nobody_knows", 1)])
    await buy(services)
    assert (await refund(services, 500)).outcome is Outcome.APPLIED
    assert (await refund(services)).outcome is Outcome.APPLIED
    (noted,) = await services.environment("live").inbox.parked(None, 10)
    assert noted.type == "subscription.updated"


async def test_an_erased_tenant_s_late_refund_is_ignored_and_a_new_purchase_waits(services: Billing) -> None:
    await buy(services)
    await services.erasure.erase("live", TOPIC, "asked for it", {"by": "support"})
    assert (await refund(services)).outcome is Outcome.IGNORED
    again = await buy(services, id="txn_2")
    assert again.outcome is Outcome.PARKED
    assert "pays again" in again.reason
    assert await services.state() is None


@pytest.mark.parametrize("cents", [500, 1900])
async def test_what_goes_back_before_an_erased_tenant_is_revived_counts(services: Billing, cents: int) -> None:
    await buy(services)
    await services.erasure.erase("live", TOPIC, "asked for it", {"by": "support"})
    assert (await buy(services, id="txn_2")).outcome is Outcome.PARKED
    assert (await refund(services, cents, of="txn_2")).outcome is Outcome.PARKED
    assert (await refund(services, id="adj_2")).outcome is Outcome.IGNORED
    await services.erasure.revive("live", TOPIC, "came back", {"by": "support"})
    await services.ingest.release("live", [revival_of(TOPIC)])
    assert await services.plan() == ("free" if cents == 1900 else "lifetime")
    assert await services.environment("live").inbox.parked(None, 10) == []


async def test_the_provider_is_not_asked_for_it_as_for_a_subscription(services: Billing) -> None:
    asked = Asked()
    services = replace_clients(services, asked)
    await buy(services)
    await refund(services, 500)
    report = await services.reconciliation.reconcile("live", TOPIC, "audit")
    assert (report.asked, report.drift, asked.ids) == (0, [], ["ctm_1"])
    assert await services.plan() == "lifetime"


def replace_clients(services: Billing, client: Asked) -> Billing:
    """The services, with an API client."""
    cast(Any, services.clients)["paddle", "live"] = client
    return services


async def test_a_purchase_of_another_customer_adds_as_a_subscription_does(services: Billing) -> None:
    await services.receive(items=[("pri_pro", 3)])
    await buy(services, customer_id="ctm_2")
    state = await services.state()
    assert (state["plan"]["key"], state["limits"]["seats"], state["status"]) == ("lifetime", 3, "active")
    await refund(services)
    assert await services.plan() == "pro"


async def test_another_provider_needs_no_more_than_to_say_it(tmp_path: Path) -> None:
    """In either order: a refund of the whole payment, and of a part."""
    path = tmp_path / "catalog.toml"
    path.write_text(TEXT.replace("prices.paddle", "prices.acme").replace("products.paddle", "products.acme"))
    item = {"price": {"id": "price_any", "product_id": "pro_course"}, "quantity": 1}
    for number, (cents, expected) in enumerate([(900, True), (901, False)]):
        for is_late in (False, True):
            tenant = f"t{number}{is_late}"
            bought = {"id": f"evt_{tenant}", "type": "order", "version": 5, "tenant": tenant}
            bought["purchase"] = {"id": f"ord_{tenant}", "items": [item], "paid": 901}
            back = {"id": f"evt_back_{tenant}", "type": "refund", "version": 9}
            back["refund"] = {"id": "ref_1", "of": f"ord_{tenant}", "cents": cents}
            with billing(CatalogWatcher(path)) as services:
                cast(Any, services.adapters)["acme"] = ACME.adapter
                services.clock.set(6)
                for body in (back, bought) if is_late else (bought, back):
                    await services.ingest.receive(ACME.adapter, orjson.dumps(body), "live")
                assert ("course" in (await services.state(f"tenant:{tenant}"))["features"]) is expected
