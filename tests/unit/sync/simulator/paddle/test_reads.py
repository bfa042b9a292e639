from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl

import pytest
from pydantic import JsonValue

from sync.core.instants import text_us
from sync.simulator.paddle import reads
from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import Subscription, Transaction
from tests.support.world import Play, Shop, price_id


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(ApiError) as error:
        act()
    return error.value.code


def several(play: Play) -> list[Subscription]:
    return [play.do("upgrade", f"t{n}").subscription for n in range(5)]


def ids(page: reads.Page) -> list[JsonValue]:
    return [body["id"] for body in page.data]


def test_a_transaction_is_read_by_its_id_in_its_environment() -> None:
    play = Play()
    play.do("upgrade", "t1")
    (paid,) = [event.data for event in play.world.events if isinstance(event.data, Transaction)]
    body = reads.transaction(play.world, "live", paid.id, {})
    assert (body["id"], body["status"], body["subscription_id"]) == (paid.id, "completed", paid.subscription_id)
    assert body["custom_data"] == {"tenant_id": "t1"}
    assert refused(lambda: reads.transaction(play.world, "sandbox", paid.id, {})) == "not_found"
    assert refused(lambda: reads.transaction(play.world, "live", "txn_unknown", {})) == "not_found"


def test_pages_follow_each_other_to_the_end() -> None:
    play = Play()
    made = [subscription.id for subscription in several(play)]

    seen: list[JsonValue] = []
    query: dict[str, str] = {"per_page": "2"}
    for more in (True, True, False):
        page = reads.list_subscriptions(play.world, "live", query)
        seen += ids(page)
        assert (page.has_more, page.total, page.per_page) == (more, 5, 2)
        query = dict(parse_qsl(page.next_query))
    assert seen == made
    assert ids(reads.list_subscriptions(play.world, "live", query)) == []


def test_pages_go_backwards_too() -> None:
    play = Play()
    made = [subscription.id for subscription in several(play)]

    first = reads.list_subscriptions(play.world, "live", {"per_page": "3", "order_by": "id[DESC]"})
    second = reads.list_subscriptions(play.world, "live", dict(parse_qsl(first.next_query)))

    assert ids(first) + ids(second) == made[::-1]


def test_filters_choose() -> None:
    play = Play()
    first, second, *_ = several(play)
    play.do("cancel", "t0", when="now")
    play.do("cancel", "t1")
    play.do("upgrade", "t2")

    def chosen(**query: str) -> list[JsonValue]:
        return ids(
            reads.list_subscriptions(play.world, "live", {name.replace("__", "["): v for name, v in query.items()})
        )

    assert chosen(status="canceled") == [first.id]
    assert len(chosen(status="active,canceled")) == 5
    assert chosen(scheduled_change_action="cancel") == [second.id]
    assert chosen(customer_id=second.customer_id) == [second.id]
    assert chosen(id=f"{first.id},{second.id}") == [first.id, second.id]
    assert len(chosen(price_id=price_id("pro"))) == 1
    assert chosen(collection_mode="manual") == []
    assert chosen(status="paused") == []


@pytest.mark.parametrize(
    ("comparison", "count"),
    [("[LT]", 2), ("[LTE]", 3), ("[GT]", 2), ("[GTE]", 3), ("", 1)],
)
def test_the_next_bill_can_be_compared(comparison: str, count: int) -> None:
    play = Play()
    middle = several(play)[2]

    page = reads.list_subscriptions(play.world, "live", {f"next_billed_at{comparison}": text_us(middle.next_us)})

    assert len(page.data) == count


@pytest.mark.parametrize(
    "query", [{"order_by": "status[ASC]"}, {"per_page": "0"}, {"per_page": "all"}, {"next_billed_at": "soon"}]
)
def test_wrong_queries_are_refused(query: dict[str, str]) -> None:
    play = Play()
    play.subscribed()

    assert refused(lambda: reads.list_subscriptions(play.world, "live", query)) == "invalid_field"


def test_a_page_has_at_most_200() -> None:
    assert reads.list_events(Play().world, "live", {"per_page": "100000"}).per_page == reads.PER_PAGE_MAX


def test_events_come_in_order_from_a_cursor_on() -> None:
    play = Play()
    play.subscribed()
    play.do("cancel")

    everything = reads.list_events(play.world, "live", {})
    rest = reads.list_events(play.world, "live", {"after": str(everything.data[1]["event_id"])})

    assert [body["event_type"] for body in everything.data] == [event.type for event in play.world.events]
    assert rest.data == everything.data[2:]
    assert all("notification_id" not in body for body in everything.data)


def test_events_can_be_narrowed() -> None:
    play = Play()
    play.subscribed()
    play.do("cancel")
    newest = text_us(play.world.events[-1].occurred_us)

    assert len(reads.list_events(play.world, "live", {"event_type": "subscription.updated"}).data) == 1
    assert len(reads.list_events(play.world, "live", {"from": newest}).data) == 1
    assert len(reads.list_events(play.world, "live", {"to": newest}).data) == len(play.world.events)
    assert reads.list_events(play.world, "sandbox", {}).data == []


def test_purchases_and_their_adjustments_are_listed() -> None:
    play = Shop()
    once = play.do("buy", plan="lifetime").subject
    play.do("refund", amount=100)
    play.do("upgrade", plan="basic")

    def chosen(**query: str) -> list[JsonValue]:
        return ids(reads.list_transactions(play.world, "live", query))

    assert chosen(subscription_id="null") == [once.id]
    assert len(chosen()) == 2
    assert chosen(customer_id="ctm_other") == []
    assert chosen(status="billed") == []
    assert chosen(**{"billed_at[GT]": text_us(play.now_us)}) == []
    (adjusted,) = reads.list_adjustments(play.world, "live", {"transaction_id": once.id, "action": "refund"}).data
    assert (adjusted["status"], adjusted["type"]) == ("approved", "partial")
    assert reads.list_adjustments(play.world, "live", {"subscription_id": "sub_1"}).data == []
    assert "adjustments" not in reads.transaction(play.world, "live", once.id, {})
    body = reads.transaction(play.world, "live", once.id, {"include": "customer,adjustments"})
    assert body["adjustments"] == [adjusted]
    customer_id = str(body["customer_id"])
    assert reads.customer(play.world, "live", customer_id)["id"] == customer_id
