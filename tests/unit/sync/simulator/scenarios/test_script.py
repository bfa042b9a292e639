from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from pydantic import JsonValue

from sync.simulator.scenarios import script
from sync.simulator.scenarios.scenario import Faults, Scenario
from sync.simulator.scenarios.script import Expected, Script
from sync.simulator.world.errors import ControlError
from sync.simulator.world.model import DAY_US, parse_us
from tests.support.world import CATALOG, START_US, Shop

CALM = Scenario("Calm", tenants=4, history=({"do": "upgrade"},), mix={"seats": 2, "upgrade": 1, "cancel": 1}, actions=6)


def write(faults: Faults | None = None, seed: int = 1, scenario: Scenario = CALM) -> Script:
    return script.write(replace(scenario, faults=faults or Faults()), seed, START_US, CATALOG)


def order(written: Script) -> list[str]:
    return [send.event_id for send in written.sends if send.kind == "genuine"]


EVERYTHING = Faults(0.5, 10, 0.5, 0.3, 0.2, 0.2, 0.2, 60, 0, 0.2, 0.6, 0.1)


def test_the_same_seed_and_start_write_the_same_bytes() -> None:
    assert write(EVERYTHING) == write(EVERYTHING)
    assert write(EVERYTHING) != write(EVERYTHING, seed=2)


def test_two_starts_do_not_share_tenants_or_events() -> None:
    first = write()
    second = script.write(CALM, 1, START_US + 1_000_000, CATALOG)

    assert set(first.expected).isdisjoint(second.expected)
    assert set(order(first)).isdisjoint(order(second))


def test_the_seed_alone_decides_what_happens() -> None:
    def shape(start_us: int) -> list[tuple[str, str, str, int]]:
        scenario = replace(CALM, faults=EVERYTHING)
        return [
            (send.kind, send.event_type, send.tenant.rpartition("-")[2], send.skew_s)
            for send in script.write(scenario, 5, start_us, CATALOG).sends
        ]

    assert {tuple(shape(START_US + n * 123_457)) for n in range(5)} == {tuple(shape(START_US))}


def test_without_faults_every_event_comes_once_and_in_order() -> None:
    written = write()

    assert order(written) == sorted(set(order(written)))
    assert len(written.sends) == written.events


def test_events_lie_in_the_past() -> None:
    assert all(parse_us(json.loads(send.body)["occurred_at"]) <= START_US for send in write().sends)


def test_a_clock_ahead_moves_every_stamp() -> None:
    stamps = [parse_us(json.loads(send.body)["occurred_at"]) for send in write(Faults(ahead_s=7 * 86_400)).sends]

    assert min(stamps) > START_US + 6 * DAY_US


@pytest.mark.parametrize("fault", ["reorder", "drop", "late"])
def test_faults_of_order_lose_and_add_nothing(fault: str) -> None:
    calm, faulty = write(), write(Faults(**{fault: 0.5}))  # type: ignore[arg-type]

    assert order(faulty) != order(calm)
    assert sorted(order(faulty)) == order(calm)
    assert faulty.expected == calm.expected


def test_a_reordered_delivery_moves_by_the_window_at_most() -> None:
    calm, faulty = order(write()), order(write(Faults(reorder=1.0, window=3)))

    assert max(abs(calm.index(event) - place) for place, event in enumerate(faulty)) <= 6


def test_late_deliveries_come_after_all_others() -> None:
    faulty = order(write(Faults(late=0.3)))

    # Event ids rise, so what is on time is the longest beginning that rises.
    on_time = next(place for place, (a, b) in enumerate(pairwise(faulty), 1) if a > b)
    assert 0.5 < on_time / len(faulty) < 0.9
    assert faulty[on_time:] != sorted(faulty[on_time:])


def test_duplicates_are_retries_or_replays() -> None:
    written = write(Faults(duplicate=0.6))

    copies = Counter(order(written))
    assert set(copies.values()) == {1, 2}
    notes: dict[str, list[str]] = {}
    for send in written.sends:
        notes.setdefault(send.event_id, []).append(json.loads(send.body)["notification_id"])
    same = [len(set(ids)) == 1 for ids in notes.values() if len(ids) == 2]
    assert {True, False} == set(same)


def test_a_stale_delivery_is_sent_again_with_a_good_clock() -> None:
    written = write(Faults(stale=0.5))

    stale = [send for send in written.sends if send.kind == "stale"]
    assert stale
    assert all(send.skew_s == -script.STALE_S for send in stale)
    assert sorted(order(written)) == order(write())
    for send in stale:
        assert written.sends.index(send) < next(
            place
            for place, other in enumerate(written.sends)
            if other.kind == "genuine" and other.event_id == send.event_id
        )


def test_a_forgery_is_an_event_that_never_was() -> None:
    written = write(Faults(forge=0.5))

    forged = [send for send in written.sends if send.kind == "forged"]
    assert forged
    assert {send.event_id for send in forged}.isdisjoint(order(written))
    data: list[dict[str, Any]] = [
        json.loads(send.body)["data"] for send in forged if "subscription." in send.event_type
    ]
    assert {body["status"] for body in data} == {"canceled"}


def test_skewed_clocks_stay_within_bounds() -> None:
    skews = {send.skew_s for send in write(Faults(skew_s=90)).sends}

    assert len(skews) > 5
    assert -90 <= min(skews) < 0 < max(skews) <= 90


def test_an_outage_holds_its_part_back_and_shuffles_it() -> None:
    calm, faulty = write(), write(Faults(outage_from=0.25, outage_to=0.75, outage_s=1.5))

    n = len(calm.sends)
    first, last = round(n * 0.25), round(n * 0.75)
    assert order(faulty)[:first] == order(calm)[:first]
    assert order(faulty)[last:] == order(calm)[last:]
    assert order(faulty)[first:last] != order(calm)[first:last]
    assert [send.pause_s for send in faulty.sends if send.pause_s] == [1.5]


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([{"do": "upgrade", "plan": "pro"}], Expected("pro", "active")),
        ([{"do": "upgrade"}, {"do": "past_due"}], Expected("basic", "past_due")),
        ([{"do": "trial", "plan": "pro"}], Expected("pro", "trialing")),
        ([{"do": "upgrade"}, {"do": "cancel"}], Expected("basic", "active", "cancel")),
        ([{"do": "upgrade"}, {"do": "cancel", "when": "now"}], Expected("free", "canceled")),
        ([{"do": "upgrade"}, {"do": "pause", "when": "now"}], Expected("free", "paused")),
        (
            [{"do": "upgrade", "plan": "pro"}, {"do": "upgrade", "new": True}, {"do": "cancel", "when": "now"}],
            Expected("pro", "active"),
        ),
        ([{"do": "upgrade", "linked": False}], Expected("free", "none")),
    ],
)
def test_the_end_is_the_provider_s(history: list[dict[str, Any]], expected: Expected) -> None:
    written = write(scenario=Scenario("One", tenants=1, history=tuple(history)))

    assert [replace(it, period_ends_us=None) for it in written.expected.values()] == [expected]


def test_the_paid_period_is_part_of_the_end_unless_it_is_past_due() -> None:
    paid, unpaid = (
        next(iter(write(scenario=Scenario("One", tenants=1, history=history)).expected.values()))
        for history in (({"do": "upgrade"},), ({"do": "upgrade"}, {"do": "past_due"}))
    )

    assert paid.period_ends_us is not None
    assert paid.period_ends_us > START_US
    assert unpaid.period_ends_us is None


def test_a_long_history_renews_on_its_way() -> None:
    seats: Mapping[str, JsonValue] = {"do": "seats", "quantity": 2}
    steps: tuple[Mapping[str, JsonValue], ...] = ({"do": "upgrade"}, *[seats] * 60)
    written = write(scenario=Scenario("Long", tenants=1, history=steps, step_s=86_400))

    renewals = [
        send for send in written.sends if json.loads(send.body)["data"].get("origin") == "subscription_recurring"
    ]
    assert renewals


def test_a_history_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ControlError, match="no live subscription"):
        write(scenario=Scenario("Wrong", history=({"do": "renew"},)))


def ends(*history: Mapping[str, JsonValue], mix: Mapping[str, int] | None = None, seed: int = 1) -> list[Expected]:
    """What is expected of a tenant with this history, where the demo's catalog is sold."""
    scenario = Scenario("Shop", tenants=1, history=history, mix=mix or {}, actions=20 if mix else 0)
    return list(script.write(scenario, seed, START_US, Shop.catalog).expected.values())


LIFETIME: Mapping[str, JsonValue] = {"do": "buy", "plan": "lifetime"}
LOST: Mapping[str, JsonValue] = {"do": "chargeback"}


@pytest.mark.parametrize(
    ("history", "plan", "status"),
    [
        ([LIFETIME], "lifetime", "active"),
        ([LIFETIME, LOST], "free", "canceled"),
        ([LIFETIME, LOST, {"do": "chargeback_reverse"}], "lifetime", "active"),
        ([{"do": "buy", "addon": "course"}], "free", "active"),
        ([{"do": "upgrade", "plan": "mail"}], "free", "none"),
    ],
)
def test_what_is_bought_once_counts_and_another_application_does_not(
    history: list[Mapping[str, JsonValue]], plan: str, status: str
) -> None:
    assert ends(*history) == [Expected(plan, status)]


def test_a_purchase_leads_before_a_lower_subscription_and_leaves_it_when_it_goes_back() -> None:
    (led,) = ends(LIFETIME, {"do": "upgrade", "plan": "pro"})
    (left,) = ends(LIFETIME, {"do": "upgrade", "plan": "pro"}, {"do": "refund", "plan": "lifetime"})

    assert led == Expected("lifetime", "active")
    assert (left.plan, left.status, left.period_ends_us is None) == ("pro", "active", False)


def test_random_actions_buy_and_refund() -> None:
    found = {tuple(ends(mix={"buy": 1, "chargeback": 3, "upgrade": 1}, seed=seed)) for seed in range(8)}

    assert len({end.plan for (end,) in found}) > 1


def test_the_other_applications_are_expected_by_themselves() -> None:
    history: tuple[Mapping[str, JsonValue], ...] = (
        {"do": "upgrade", "plan": "pro"},
        {"do": "upgrade", "plan": "mail"},
        {"do": "buy", "addon": "course"},
        {"do": "cancel", "app": "mail"},
    )

    def others(count: int) -> list[Expected]:
        scenario = Scenario("Shop", tenants=1, history=history[:count])
        written = script.write(scenario, 1, START_US, Shop.catalog)
        (tenant,) = written.expected
        assert list(written.others) == [(tenant, "mail")]
        return [replace(end, period_ends_us=None) for end in written.others.values()]

    assert others(1) == [Expected("", "none")]
    assert others(2) == others(3) == [Expected("mail", "active")]
    assert others(4) == [Expected("mail", "active", "cancel")]


def test_random_actions_are_about_each_application() -> None:
    scenario = Scenario("Shop", tenants=6, mix={"upgrade": 3, "buy": 1}, actions=6)
    written = script.write(scenario, 1, START_US, Shop.catalog)

    assert {end.plan for end in written.others.values()} - {""}
    assert {end.plan for end in written.expected.values()} - {"free"}
