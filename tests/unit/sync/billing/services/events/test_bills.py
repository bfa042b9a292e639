"""Bills are compared with the quote of the confirmed change: once each, in any order of arrival."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import orjson
import pytest

from sync.billing.domain.facts.model import Event
from sync.billing.domain.money.model import Bill, Line, Money
from sync.billing.domain.money.quote import Quote
from sync.billing.domain.outcome import Outcome
from sync.billing.domain.tenant_resolution import SubscriptionRef
from sync.billing.storage.quoted import claim_bill, drop_quote, find_quoted, store_quote
from sync.core import instants
from tests.support.bodies import envelope
from tests.support.services import DAY_S, TOPIC, Billing

REF = SubscriptionRef("live", "paddle", "sub_1")
NOW = Bill((Line("pri_pro", 2, 1000, 0, 0, 1000, proration=True),), 1000, 0, 0, 1000, 0, 0, 1000)
NEXT = Bill((Line("pri_pro", 2, 2000, 0, 0, 2000),), 2000, 0, 0, 2000, 0, 0, 2000)


async def quote(services: Billing, ref: SubscriptionRef = REF, days: int = 10) -> None:
    now_ns = services.now_ns()
    money = Money("USD", 2, NOW, NEXT, now_ns + days * DAY_S * 10**9, now_ns)
    await store_quote(services.store, ref, Quote("pv_1", TOPIC, money, now_ns), now_ns)


def transaction(
    services: Billing, bill: Bill, event_id: str, kind: str = "transaction.completed", **fields: Any
) -> bytes:
    """The body of a transaction of now."""
    now = instants.text(services.now_ns())

    def totals(of: Any) -> dict[str, str]:
        return {name: str(getattr(of, name)) for name in ("subtotal", "discount", "tax", "total")}

    lines = [
        {
            "price_id": line.price_id,
            "quantity": line.quantity,
            "proration": {} if line.proration else None,
            "totals": totals(line),
        }
        for line in bill.lines or ()
    ]
    whole = {**totals(bill), "credit": str(bill.credit), "grand_total": str(bill.due)}
    data = {
        "id": "txn_1",
        "status": kind.partition(".")[2],
        "subscription_id": "sub_1",
        "customer_id": "ctm_1",
        "origin": "subscription_update",
        "currency_code": "USD",
        "created_at": now,
        "custom_data": None,
        "details": {"totals": whole, "line_items": lines},
        **fields,
    }
    return orjson.dumps(envelope(data, event_id=event_id, event_type=kind, occurred_at=now))


async def take(services: Billing, body: bytes) -> Outcome:
    return (await services.ingest.receive(services.adapters["paddle"], body, "live")).outcome


async def drift(services: Billing) -> list[dict[str, Any]]:
    records: Any = (await services.environment("live").drifts.page("", 100))[0]
    return list(records)


DEARER = NOW._replace(total=1001, due=1001)


async def test_a_bill_like_its_quote_leaves_no_record(services: Billing) -> None:
    await services.receive(id="sub_1", customer_id="ctm_1")
    await quote(services)
    assert await take(services, transaction(services, NOW, "evt_bill")) in (Outcome.IGNORED, Outcome.UNCHANGED)
    assert await drift(services) == []


@pytest.mark.parametrize("order", list(permutations(("billed", "paid", "completed"))))
async def test_a_bill_that_differs_is_recorded_once_however_often_it_is_told(
    services: Billing, order: tuple[str, ...]
) -> None:
    await services.receive(id="sub_1", customer_id="ctm_1")
    version = (await services.store.read(TOPIC)).version
    await quote(services)
    for what in (*order, *order):
        await take(services, transaction(services, DEARER, f"evt_{what}", f"transaction.{what}"))
    (record,) = await drift(services)
    assert (record["kind"], record["topic"], record["subject"]) == ("money", TOPIC, "pv_1")
    assert record["why"] == "change billed as txn_1"
    assert record["here"] == {"currency": "USD", "total": 1000, "due_now": 1000}
    assert record["there"] == {"currency": "USD", "total": 1001, "due_now": 1001}
    assert (await services.environment("live").drifts.counts())["money"] == 1
    assert (await services.store.read(TOPIC)).version == version


async def test_the_renewal_is_compared_as_well(services: Billing) -> None:
    await services.receive(id="sub_1", customer_id="ctm_1")
    await quote(services)
    await take(services, transaction(services, NOW, "evt_1"))
    services.clock.advance(10 * DAY_S)
    dearer = NEXT._replace(lines=(Line("pri_pro", 2, 2200, 0, 0, 2200),), subtotal=2200, total=2200, due=2200)
    await take(services, transaction(services, dearer, "evt_2", id="txn_2", origin="subscription_recurring"))
    (record,) = await drift(services)
    assert record["why"] == "renewal billed as txn_2"
    assert record["here"]["amount"] == 2000
    assert record["there"]["lines.pri_pro.total"] == 2200


async def test_nothing_is_compared_without_a_quote_or_after_it(services: Billing) -> None:
    await services.receive(id="sub_1", customer_id="ctm_1")
    await take(services, transaction(services, DEARER, "evt_1"))
    await quote(services)
    await take(services, transaction(services, DEARER, "evt_2", subscription_id="sub_other"))
    await take(services, transaction(services, DEARER, "evt_3", origin="web"))
    await take(services, transaction(services, DEARER, "evt_4", kind="transaction.updated"))
    services.clock.advance(2 * 3600)
    await take(services, transaction(services, DEARER, "evt_5"))
    assert await drift(services) == []
    await drop_quote(services.store, REF, "pv_1")
    assert (await find_quoted(services.store, REF)).kept == ()


async def test_an_attempt_that_stopped_after_its_claim_is_repeated(services: Billing) -> None:
    await services.receive(id="sub_1", customer_id="ctm_1")
    await quote(services)
    body = transaction(services, DEARER, "evt_bill")
    event = services.parse("paddle", body, "live")
    assert isinstance(event, Event)
    assert event.billed is not None
    (quoted,) = (await find_quoted(services.store, REF)).kept
    assert await claim_bill(services.store, REF, quoted, event.billed, "evt_bill", 60)
    await take(services, transaction(services, DEARER, "evt_other"))
    assert await drift(services) == []
    await take(services, body)
    assert [record["subject"] for record in await drift(services)] == ["pv_1"]


async def test_the_drift_is_of_the_tenant_that_has_the_subscription_now(services: Billing) -> None:
    await services.receive(id="sub_1", customer_id="ctm_1")
    await quote(services)
    services.clock.advance(1)
    await services.receive("other", id="sub_1", customer_id="ctm_1")
    await take(services, transaction(services, DEARER, "evt_bill"))
    assert [record["topic"] for record in await drift(services)] == ["tenant:other"]


async def test_an_erasure_removes_the_quote(services: Billing) -> None:
    await services.receive(id="sub_1", customer_id="ctm_1")
    await quote(services)
    await services.erasure.erase("live", TOPIC, "asked for it", {"by": "support"})
    redis: Any = services.store.redis
    assert not await redis.exists(services.store.keys.quote("live", REF.link_subject))
    await take(services, transaction(services, DEARER, "evt_bill"))
    assert await drift(services) == []


async def test_a_quote_ends_by_itself(services: Billing) -> None:
    await quote(services, days=2)
    redis: Any = services.store.redis
    key = services.store.keys.quote("live", REF.link_subject)
    assert 0 < await redis.ttl(key) <= 7 * DAY_S
    await services.receive(id="sub_1", customer_id="ctm_1")
    await take(services, transaction(services, DEARER, "evt_bill"))
    assert 0 < await redis.ttl(key) <= 7 * DAY_S
