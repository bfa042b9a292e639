"""Stripe's events of one second: the state is that of the last that happened, whatever their ids and their arrival."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.cases import CATALOG, load, post_stripe, run_cases, send
from tests.support.stripe import KEY, account
from tests.support.stripe_histories import CHECKOUT, HISTORIES, Change, event_id, history, items
from tests.support.system import System

PRICES = CATALOG.replace("price_pro_live", "price_pro").replace("price_basic_live", "price_basic")


@pytest.fixture
async def selling(store_url: str, tmp_path: Path) -> AsyncIterator[System]:
    """A system without a Stripe API key."""
    async with run_cases(store_url, tmp_path, catalog=PRICES) as system:
        yield system


def happened(tenant: str, changes: Sequence[Change], seed: int = 0, start: int | None = None) -> list[dict[str, Any]]:
    """The events of a tenant's subscription, in the order in which they happened; the first two minutes ago."""
    whose = {"id": f"sub_{tenant}", "customer": f"cus_{tenant}", "metadata": {"tenant_id": tenant}}
    kept = [
        (at, kind, {**changed, "metadata": whose["metadata"]} if "metadata" in changed else changed)
        for at, kind, changed in changes
    ]
    return history(kept, random.Random(f"{tenant}{seed}"), int(time.time()) - 120 if start is None else start, **whose)


async def arrive(system: System, events: Sequence[dict[str, Any]]) -> list[str]:
    """The outcomes of events that arrive in this order."""
    outcomes = []
    for event in events:
        answer = await post_stripe(system, event)
        assert answer.status_code == 200, answer.text
        outcomes.append(answer.json()["outcome"])
    return outcomes


async def test_s66_a_paid_checkout_is_active_in_either_order_of_ids_and_of_arrival(
    store_url: str, tmp_path: Path
) -> None:
    case = load("1-stripe-same-second")
    ids = [each["event"]["id"] for each in case]
    async with run_cases(store_url, tmp_path) as system:
        for number, (named, arrival) in enumerate(itertools.product((ids, ids[::-1]), ((0, 1), (1, 0)))):
            tenant = f"f1-{number}"
            text = json.dumps(case).replace("sub_f1", f"sub_{tenant}").replace("cus_f1", f"cus_{tenant}")
            deliveries = json.loads(text)
            async with system.tab(f"tenant:{tenant}") as tab:
                for index in arrival:
                    event = deliveries[index]["event"]
                    event["id"] = f"{named[index]}{number}"
                    event["data"]["object"]["metadata"] = {"tenant_id": tenant}
                    answer = await send(system, deliveries[index])
                    assert answer.status_code == 200, answer.text
                await tab.until(lambda tab: tab.version and tab.plan == "pro")
                await tab.fence()
                assert (tab.plan, tab.state["status"]) == ("pro", "active")
                assert (await system.read(f"tenant:{tenant}"))["version"] == tab.version


@pytest.mark.parametrize("name", ["failed and paid", "failed, paid and failed", "trial without a card", "quantities"])
async def test_s66_every_order_of_arrival_ends_like_the_order_of_what_happened(selling: System, name: str) -> None:
    orders = list(itertools.permutations(range(len(HISTORIES[name]))))
    states, start = [], int(time.time()) - 600
    for number, order in enumerate([orders[0], *random.Random(1).sample(orders[1:], 5)]):
        tenant = f"t{number}"
        events = happened(tenant, HISTORIES[name], start=start)
        async with selling.tab(f"tenant:{tenant}") as tab:
            await arrive(selling, [events[index] for index in order])
            await tab.fence()
            states.append(tab.state)
            assert tab.state == (await selling.read(f"tenant:{tenant}"))["state"]
    assert all(state == states[0] for state in states)


async def test_s66_creation_is_first_and_the_end_is_last(selling: System) -> None:
    for number, order in enumerate(itertools.permutations(range(3))):
        tenant = f"t{number}"
        events = happened(tenant, [*CHECKOUT, (0, "deleted", {"status": "canceled"})])
        for event in events:
            event["data"].pop("previous_attributes", None)
        async with selling.tab(f"tenant:{tenant}") as tab:
            await arrive(selling, [events[index] for index in order])
            await tab.until(lambda tab: tab.version and tab.state["status"] == "canceled")
            await tab.fence()
            assert (tab.plan, tab.state["status"]) == ("free", "canceled")


async def test_s66_what_no_body_decides_is_decided_by_the_first_receipt(selling: System) -> None:
    changes: list[Change] = [
        (0, "created", {"status": "active"}),
        (5, "paused", {"items": items(("price_pro", 2))}),
        (5, "resumed", {"items": items(("price_pro", 3))}),
    ]
    for number, order in enumerate(((0, 1, 2), (2, 1, 0))):
        tenant = f"t{number}"
        events = happened(tenant, changes)
        async with selling.tab(f"tenant:{tenant}") as tab:
            await arrive(selling, [events[index] for index in order])
            seats = 3 if number == 0 else 2
            await tab.fence()
            assert tab.state["limits"]["seats"] == seats
            # A second delivery of the first changes nothing.
            assert await arrive(selling, [events[order[1 - number]]]) == ["duplicate"]
            await tab.fence()
            assert tab.state["limits"]["seats"] == seats


async def test_s66_with_an_api_key_what_no_body_decides_is_fetched(store_url: str, tmp_path: Path) -> None:
    async with (
        account() as stripe,
        run_cases(
            store_url, tmp_path, catalog=PRICES, STRIPE_API_KEYS=f"live:{KEY}", STRIPE_API_URL=stripe.url
        ) as system,
        system.tab() as tab,
    ):
        subscription_id = stripe.add(quantity=3)
        shown = stripe.shown(subscription_id)
        chance, now = random.Random(1), int(time.time())
        for quantity in (3, 2):
            event = stripe.happen("updated", subscription_id, now)
            event["id"] = event_id(chance)
            event["data"]["object"] = {**shown, "items": items(("price_pro", quantity))}
            await arrive(system, [event])
        await tab.until(lambda tab: tab.version)
        await tab.fence()
        assert tab.state["limits"]["seats"] == 3


async def test_s66_a_payment_in_the_second_of_an_answer_counts_though_stripe_is_away(
    store_url: str, tmp_path: Path
) -> None:
    """Stripe has answered about the creation, and fails when the payment arrives."""
    async with (
        account() as stripe,
        run_cases(
            store_url, tmp_path, catalog=PRICES, STRIPE_API_KEYS=f"live:{KEY}", STRIPE_API_URL=stripe.url
        ) as system,
    ):
        second, number = 0, 0
        while second != int(time.time()):
            second, number = int(time.time()), number + 1
            subscription_id = stripe.add(tenant=f"t{number}", quantity=3, status="incomplete")
            await arrive(system, [stripe.happened[-1]])
        paid = stripe.change(subscription_id, status="active") | {"created": second}
        paid["data"]["previous_attributes"] = {"status": "incomplete"}
        stripe.failing = 100
        async with system.tab(f"tenant:t{number}") as tab:
            assert await arrive(system, [paid]) == ["applied"]
            await tab.fence()
            assert (tab.plan, tab.state["status"]) == ("pro", "active")


async def test_s66_an_event_of_a_test_clock_shuts_out_no_real_event(selling: System) -> None:
    """It counts as of its receipt. Scenarios 7 and 8 are about Paddle's stamps."""
    month = 30 * 86_400
    changes: list[Change] = [
        *CHECKOUT,
        (month, "updated", {"items": items(("price_basic", 1))}),
        (2 * month, "updated", {"items": items(("price_pro", 7))}),
    ]
    async with selling.tab("tenant:clock") as tab:
        events = happened("clock", changes)
        assert await arrive(selling, events) == ["applied"] * 4
        await tab.until(lambda tab: tab.version and tab.state["limits"]["seats"] == 7)
        real = happened(
            "clock", [(0, "updated", {"items": items(("price_pro", 4))})], seed=1, start=int(time.time()) + 1
        )
        assert await arrive(selling, real) == ["applied"]
        await tab.until(lambda tab: tab.state["limits"]["seats"] == 4)
