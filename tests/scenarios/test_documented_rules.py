"""Two applications, subscriptions, purchases, refunds and moves at random: each tenant has what the docs say."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.test_purchases import adjustment, tell, transaction
from tests.support.cases import run_cases
from tests.support.documented_rules import APPS, CATALOG, EXPIRES_S, PRICES, PURCHASED, SOLD, Thing, entitlements
from tests.support.system import State, ago, event

STATUSES = ("active", "active", "trialing", "past_due", "paused", "canceled")


class Account:
    """The random events of one customer of two tenants, of which the second one's id ends with `b`."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.tenant = f"t{seed}"
        self.events: list[dict[str, Any]] = []
        self.left: dict[str, list[Thing]] = {self.tenant: [], f"{self.tenant}b": []}
        for number in range(self.random.randint(0, 3)):
            self.subscribe(number)
        for number in range(self.random.randint(1, 3)):
            self.buy(number)

    def subscribe(self, number: int) -> None:
        """Add the events of a subscription. The newest that is not its end names its tenant."""
        owner, status = "", ""
        items: tuple[tuple[str, int], ...] = ()
        count = self.random.randint(1, 4)
        for place in range(count):
            items = tuple((price, self.random.choice((0, 1, 1, 2, 3))) for price in self.random.sample(PRICES, 2))
            if not any(price in SOLD and units for price, units in items):
                items = (*items, ("pri_team", 1)) if "pri_team" not in dict(items) else (("pri_team", 1),)
            status = self.random.choice(STATUSES if place == count - 1 else STATUSES[:-1])
            named = self.random.choice([self.tenant, self.tenant, f"{self.tenant}b"])
            owner = owner if owner and status == "canceled" else named
            at = ago(900 - 100 * place - 10 * number)
            made = event(
                at,
                tenant=named,
                id=f"sub_{self.tenant}_{number}",
                customer_id=f"ctm_{self.tenant}",
                status=status,
                items=list(items),
                created_at=ago(900 - 10 * number),
                kind="subscription.created" if place == 0 else "subscription.updated",
            )
            self.events.append(json.loads(made))
        self.left[owner].append(Thing(status, items))

    def buy(self, number: int) -> None:
        """Add the events of a purchase, and of what goes back of it."""
        owner, bought_s = self.random.choice([self.tenant, f"{self.tenant}b"]), self.random.choice([200, EXPIRES_S + 9])
        prices = [self.random.choice(PURCHASED), *self.random.choice([[], ["pri_book"]])]
        whole, id = 1900 * len(prices), f"txn_{self.tenant}_{number}"
        about = {"id": id, "customer_id": f"ctm_{self.tenant}"}
        for kind in self.random.choice([["paid"], ["completed"], ["paid", "completed"]]):
            self.events.append(transaction(bought_s, *prices, tenant=owner, kind=kind, **about))
        back = self.random.choice([[], [500], [whole], [500, whole - 500], [whole - 1]])
        for place, amount in enumerate(back):
            action = self.random.choice(["refund", "chargeback"])
            more: dict[str, Any] = {"id": f"adj_{id}_{place}", "transaction_id": id}
            more["customer_id"] = about["customer_id"]
            self.events.append(adjustment(100 - place, amount, action=action, **more))
        status = "canceled" if sum(back) >= whole else "active"
        self.left[owner].append(Thing(status, tuple((price, 1) for price in prices), bought_s))

    def arrivals(self) -> list[list[dict[str, Any]]]:
        """The events as they happened, in any order, and in any order with some of them again."""
        mixed = [self.random.sample(self.events, len(self.events)) for _ in range(2)]
        return [self.events, mixed[0], mixed[1] + self.random.sample(self.events, len(self.events) // 2)]


def renamed(event: dict[str, Any], account: str, name: str) -> dict[str, Any]:
    """The same event of another account."""
    text = json.dumps(event).replace(f"_{account}_", f"_{name}_").replace(f'_{account}"', f'_{name}"')
    found: dict[str, Any] = json.loads(text.replace(f'"{account}"', f'"{name}"').replace(f'"{account}b"', f'"{name}b"'))
    return {**found, "event_id": f"{event['event_id']}{name}"}


def assert_as_documented(state: State, things: list[Thing], about: str) -> None:
    expected = entitlements(things)
    for app in APPS:
        shown, wanted = state["apps"][app], expected[app]
        granted = shown.get("plan", {}).get("key"), set(shown["features"]), shown["limits"], shown["modules"]
        assert granted == (wanted["plan"], wanted["features"], wanted["limits"], wanted["modules"]), f"{app} {about}"
        # A tenant that all has moved away from has nothing, and says so.
        assert not things or shown["status"] == (wanted["status"] or shown["status"]), f"{app} {about}"
    every = set(state["features"]), state["limits"], state["modules"]
    assert every == tuple(expected[""].values()), about
    assert (state["plan"], state["status"]) == (state["apps"]["desk"]["plan"], state["apps"]["desk"]["status"])


@pytest.mark.parametrize("first", [1, 101])
async def test_s106_whatever_happens_a_tenant_has_what_the_docs_say(first: int, store_url: str, tmp_path: Path) -> None:
    """In any order of arrival, with duplicates."""
    async with run_cases(store_url, tmp_path, catalog=CATALOG) as system:
        for seed in range(first, first + 6):
            account = Account(seed)
            for number, events in enumerate(account.arrivals()):
                name = f"{account.tenant}x{number}"
                outcomes = await tell(system, [renamed(each, account.tenant, name) for each in events])
                about = f"{seed} {number}: {account.left} {outcomes}"
                for tenant, things in account.left.items():
                    read = await system.read(f"tenant:{tenant.replace(account.tenant, name)}")
                    if things or read["state"] is not None:
                        assert_as_documented(read["state"], things, about)
        assert await system.parked() == []
