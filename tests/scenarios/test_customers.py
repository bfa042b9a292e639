"""Who pays for a tenant: second customers, and tenants named by a signed reference."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from planwire_client import tenant_reference
from tests.support.bodies import envelope, subscription
from tests.support.cases import CATALOG, post_stripe, run_cases
from tests.support.system import System, ago
from tests.support.wait import until

SECRET, NEXT_SECRET = "a" * 32, "b" * 32

_serial = itertools.count(1)

Post = Callable[..., Any]
"""Deliver a subscription's event `seconds` ago, and return the answer."""


async def paddle(
    system: System, seconds: float, customer: str, tenant: object, status: str, plan: str = "pro", **fields: Any
) -> httpx2.Response:
    """Deliver an event of a customer's Paddle subscription, which was created an hour before the first one."""
    at, created = ago(seconds), ago(3600 + fields.pop("created", seconds))
    data = subscription(
        id=f"sub_{customer}",
        customer_id=f"ctm_{customer}",
        created_at=created,
        updated_at=at,
        status=status,
        items=[(f"pri_{plan}_live", fields.pop("quantity", 1))],
    )
    data["custom_data"] = None if tenant is None else {"tenant_id": tenant}
    body = envelope(data | fields, event_type="subscription.updated", occurred_at=at)
    return await system.deliver(json.dumps(body).encode())


async def paddle_checkout(system: System, customer: str, tenant: str) -> httpx2.Response:
    """Deliver the completed transaction of a customer's subscription."""
    data = {"id": "txn_1", "subscription_id": f"sub_{customer}", "custom_data": {"tenant_id": tenant}}
    body = envelope(data, event_type="transaction.completed", occurred_at=ago(0))
    return await system.deliver(json.dumps(body).encode())


async def stripe(
    system: System, seconds: float, customer: str, tenant: object, status: str, plan: str = "pro", **fields: Any
) -> httpx2.Response:
    """Deliver an event of a customer's Stripe subscription, which was created an hour before the first one."""
    at = int(time.time() - seconds)
    price, quantity = {"id": f"price_{plan}_live", "object": "price"}, fields.pop("quantity", 1)
    items = [{"id": "si_1", "object": "subscription_item", "price": price, "quantity": quantity}]
    body = {
        "id": f"sub_{customer}",
        "object": "subscription",
        "status": status,
        "customer": f"cus_{customer}",
        "created": int(time.time() - 3600 - fields.pop("created", seconds)),
        "metadata": {} if tenant is None else {"tenant_id": tenant},
        "items": {"object": "list", "data": items, "has_more": False},
        **({"customer": fields.pop("customer_id")} if "customer_id" in fields else {}),
    }
    kind = "customer.subscription.deleted" if status == "canceled" else "customer.subscription.updated"
    return await _post_stripe(system, at, kind, body)


async def stripe_checkout(system: System, customer: str, tenant: str) -> httpx2.Response:
    """Deliver the completed checkout session of a customer's subscription."""
    body = {
        "id": "cs_1",
        "object": "checkout.session",
        "client_reference_id": tenant,
        "customer": f"cus_{customer}",
        "subscription": f"sub_{customer}",
        "metadata": {},
    }
    return await _post_stripe(system, int(time.time()), "checkout.session.completed", body)


async def _post_stripe(system: System, at: int, kind: str, body: dict[str, Any]) -> httpx2.Response:
    event_id = f"evt_{next(_serial):026d}"
    event = {"id": event_id, "object": "event", "type": kind, "created": at, "livemode": True, "data": {"object": body}}
    return await post_stripe(system, event)


DOORS = pytest.mark.parametrize(
    ("post", "checkout"), [(paddle, paddle_checkout), (stripe, stripe_checkout)], ids=["paddle", "stripe"]
)


@pytest.fixture
async def system(store_url: str, tmp_path: Path) -> AsyncIterator[System]:
    """A system with Paddle's and Stripe's doors, which verifies signed references."""
    async with run_cases(store_url, tmp_path, TENANT_SECRET=SECRET) as system:
        yield system


async def drift(system: System) -> list[dict[str, Any]]:
    """The recorded drift, the newest first."""
    found: list[dict[str, Any]] = (await system.ask("GET", "/v1/drift"))["drift"]
    return found


@DOORS
async def test_s54_a_second_customer_adds_and_never_worsens(system: System, post: Post, checkout: Post) -> None:
    """Each status of another customer's subscription, beside what the own customer pays for."""
    async with system.tab() as tab:
        await post(system, 500, "own", "acme", "active", "basic", quantity=5)
        await tab.until(lambda tab: tab.plan == "basic")
        own = tab.state
        for seconds, status in ((400, "past_due"), (390, "paused"), (380, "canceled")):
            assert (await post(system, seconds, f"other_{status}", "acme", status)).status_code == 200
        await tab.fence()
        assert tab.state == own
        await post(system, 300, "other", "acme", "active", created=450)
        await tab.until(lambda tab: tab.plan == "pro")
        assert (tab.state["status"], tab.state["limits"]) == ("active", {"seats": 5, "projects": "unlimited"})
        await post(system, 200, "other", "acme", "past_due", created=450)
        await tab.until(lambda tab: tab.plan == "basic")
        assert tab.state == own
        await post(system, 100, "other", "acme", "canceled", created=450)
        await tab.fence()
        assert tab.state == own


@DOORS
async def test_s54_the_own_customer_s_troubles_are_shown_and_its_end_lets_the_other_lead(
    system: System, post: Post, checkout: Post
) -> None:
    async with system.tab() as tab:
        await post(system, 500, "own", "acme", "active", "basic")
        await post(system, 400, "other", "acme", "active", created=450)
        await post(system, 300, "own", "acme", "past_due", "basic")
        await tab.until(lambda tab: tab.state is not None and tab.state["status"] == "past_due")
        assert (tab.plan, "grace_ends_at" in tab.state) == ("pro", True)
        await post(system, 200, "own", "acme", "canceled", "basic")
        await tab.until(lambda tab: tab.state["status"] == "active")
        assert tab.plan == "pro"
        await post(system, 100, "other", "acme", "past_due", created=450)
        await tab.until(lambda tab: tab.plan == "free")
        assert tab.state["status"] == "canceled"


@DOORS
async def test_s54_any_order_of_arrival_ends_alike(system: System, post: Post, checkout: Post) -> None:
    def deliveries(tenant: str) -> list[Callable[[], Any]]:
        own, other = f"own-{tenant}", f"other-{tenant}"
        return [
            lambda: post(system, 500, own, tenant, "active", "basic", quantity=4, created=500),
            lambda: post(system, 400, other, tenant, "active", created=450),
            lambda: post(system, 300, own, tenant, "past_due", "basic", quantity=4, created=500),
            lambda: post(system, 200, other, tenant, "past_due", created=450),
        ]

    ends = []
    for number, order in enumerate(itertools.permutations(range(4))):
        tenant = f"t{number}"
        for index in order:
            assert (await deliveries(tenant)[index]()).status_code == 200
        state = await system.state(f"tenant:{tenant}")
        ends.append((state["plan"]["key"], state["status"], state["limits"]))
    assert ends == [("basic", "past_due", {"seats": 4, "projects": 25})] * 24


@DOORS
async def test_s54_operators_see_the_second_customer(system: System, post: Post, checkout: Post) -> None:
    await post(system, 500, "own", "acme", "active", "basic")
    answer = (await post(system, 400, "other", "acme", "active", created=450)).json()
    await post(system, 300, "other", "acme", "active", created=450, quantity=2)
    prefix = "ctm" if post is paddle else "cus"
    key = f"{'paddle' if post is paddle else 'stripe'}:sub_other"
    assert answer["outcome"] == "applied"
    assert answer["reason"] == f"customer {prefix}_other of {key} is another than the tenant's own, {prefix}_own"
    (record,) = await drift(system)
    assert (record["kind"], record["topic"], record["subject"]) == ("second_customer", "tenant:acme", key)
    assert record["here"] == {"customer_ids": [f"{prefix}_own"]}
    assert record["there"] == {"customer_id": f"{prefix}_other", "status": "active"}
    status = await system.ask("GET", "/v1/tenants/acme/status")
    assert status["store"]["second_customers"] == [key]
    links = (await system.ask("GET", "/v1/tenants/acme/links"))["links"]
    assert [link["subscription"] for link in links if link.get("second_customer")] == [key]
    metrics = (await system.http.get("/metrics")).text
    assert 'planwire_drift_total{env="live",kind="second_customer"} 1.0' in metrics


@DOORS
async def test_s54_the_policy_park_keeps_a_second_customer_waiting(
    store_url: str, tmp_path: Path, post: Post, checkout: Post
) -> None:
    parking = CATALOG.replace("[policy]", '[policy]\nsecond_customer = "park"')
    async with run_cases(store_url, tmp_path, catalog=parking, TENANT_SECRET=SECRET) as system, system.tab() as tab:
        await post(system, 500, "own", "acme", "active", "basic")
        await tab.until(lambda tab: tab.plan == "basic")
        answer = (await post(system, 400, "other", "acme", "active", created=450)).json()
        assert answer["outcome"] == "parked"
        assert 'second_customer is "park"' in answer["reason"]
        await tab.fence()
        assert tab.plan == "basic"
        signed = tenant_reference(SECRET, "acme")
        assert (await post(system, 300, "other", signed, "active", created=450)).json()["outcome"] == "applied"
        await tab.until(lambda tab: tab.plan == "pro")
        # A stranger whose event comes first counts until the own customer is known.
        await post(system, 400, "early", "late", "active", created=300)
        assert (await system.state("tenant:late"))["plan"]["key"] == "pro"
        await post(system, 350, "slow", "late", "active", "basic", created=500)
        assert (await system.state("tenant:late"))["plan"]["key"] == "basic"


@DOORS
async def test_s55_a_verified_reference_makes_a_second_customer_like_any_other(
    system: System, post: Post, checkout: Post
) -> None:
    signed = tenant_reference(SECRET, "acme")
    async with system.tab() as tab:
        await post(system, 500, "own", "acme", "active", "basic")
        answer = (await post(system, 400, "other", signed, "past_due", created=450)).json()
        assert (answer["outcome"], "reason" in answer) == ("applied", False)
        await tab.until(lambda tab: tab.plan == "pro")
        assert (tab.state["status"], "grace_ends_at" in tab.state) == ("past_due", True)
        assert await drift(system) == []


@DOORS
async def test_s55_a_reference_is_verified_once_and_holds_after_a_rotation(
    store_url: str, tmp_path: Path, post: Post, checkout: Post
) -> None:
    signed = tenant_reference(SECRET, "acme")
    async with run_cases(store_url, tmp_path, TENANT_SECRET=SECRET) as system:
        await post(system, 500, "own", "acme", "active", "basic")
        assert (await post(system, 400, "other", signed, "active", created=450)).json()["outcome"] == "applied"
        # The checkout of another subscription is verified before the subscription's own event comes.
        assert (await checkout(system, "third", signed)).status_code == 200
    async with run_cases(store_url, tmp_path, TENANT_SECRET=NEXT_SECRET) as system, system.tab() as tab:
        await tab.until(lambda tab: tab.plan == "pro")
        answer = (await post(system, 300, "other", signed, "past_due", created=450)).json()
        assert answer["outcome"] == "applied"
        await tab.until(lambda tab: tab.state["status"] == "past_due")
        assert tab.plan == "pro"
        await post(system, 250, "other", signed, "canceled", created=450)
        await tab.until(lambda tab: tab.plan == "basic")
        assert (await post(system, 200, "third", signed, "past_due", created=210)).json()["outcome"] == "applied"
        await tab.until(lambda tab: tab.plan == "pro")
        assert tab.state["status"] == "past_due"
        assert await drift(system) == []


@DOORS
async def test_s55_a_checkout_that_is_verified_later_counts_for_the_subscription(
    system: System, post: Post, checkout: Post
) -> None:
    async with system.tab() as tab:
        await post(system, 500, "own", "acme", "active", "basic")
        await post(system, 400, "other", "acme", "past_due", created=450)
        await tab.until(lambda tab: tab.plan == "basic")
        assert (await checkout(system, "other", tenant_reference(SECRET, "acme"))).status_code == 200
        await tab.until(lambda tab: tab.plan == "pro")
        assert tab.state["status"] == "past_due"
        status = await system.ask("GET", "/v1/tenants/acme/status")
        assert "second_customers" not in status["store"]


@DOORS
async def test_s55_a_reference_that_no_secret_signed_names_nobody(system: System, post: Post, checkout: Post) -> None:
    """Neither the tenant in it nor the customer's only tenant gets the subscription."""
    forged, sandbox = tenant_reference(NEXT_SECRET, "acme"), tenant_reference(SECRET, "acme", "sandbox")
    async with system.tab() as tab:
        await post(system, 500, "own", "acme", "active", "basic")
        await tab.until(lambda tab: tab.plan == "basic")
        own = f"{'ctm' if post is paddle else 'cus'}_own"
        for number, reference in enumerate((forged, sandbox, forged[:-1], "pwt1_acme")):
            answer = (await post(system, 400, f"bad{number}", reference, "active", customer_id=own)).json()
            assert answer["outcome"] == "parked", reference
            assert "reference" in answer["reason"]
        assert "no secret in PLANWIRE_TENANT_SECRET signed the reference to 'acme' for live" in str(
            await system.parked()
        )
        await tab.fence()
        assert tab.plan == "basic"
        # An unsigned name keeps working.
        assert (await post(system, 300, "plain", "acme", "active")).json()["outcome"] == "applied"


@DOORS
async def test_s55_a_reference_of_a_new_secret_is_applied_when_the_worker_knows_it(
    store_url: str, tmp_path: Path, post: Post, checkout: Post
) -> None:
    signed = tenant_reference(NEXT_SECRET, "acme")
    async with run_cases(store_url, tmp_path, TENANT_SECRET=SECRET) as system:
        assert (await post(system, 400, "own", signed, "active")).json()["outcome"] == "parked"
    both = f"{NEXT_SECRET},{SECRET}"
    async with run_cases(store_url, tmp_path, TENANT_SECRET=both) as system, system.tab() as tab, system.working():
        await tab.until(lambda tab: tab.plan == "pro", 30)

        async def is_none_parked() -> bool:
            return await system.parked() == []

        await until(is_none_parked)


@DOORS
async def test_s55_the_policy_may_demand_signed_references(
    store_url: str, tmp_path: Path, post: Post, checkout: Post
) -> None:
    async with run_cases(store_url, tmp_path, TENANT_SECRET=SECRET) as system:
        assert (await post(system, 500, "old", "acme", "active", "basic")).json()["outcome"] == "applied"
    demanding = CATALOG.replace("[policy]", '[policy]\nunsigned_tenant = "park"')
    async with run_cases(store_url, tmp_path, catalog=demanding, TENANT_SECRET=SECRET) as system, system.tab() as tab:
        answer = (await post(system, 400, "new", "acme", "active")).json()
        assert answer["outcome"] == "parked"
        assert "'acme' is not a signed reference" in answer["reason"]
        # What is known already keeps its tenant, and does not move by an unsigned name.
        assert (await post(system, 300, "old", "acme", "active", "basic", quantity=7)).json()["outcome"] == "applied"
        await tab.until(lambda tab: tab.state is not None and tab.state["limits"]["seats"] == 7)
        await post(system, 250, "old", "other", "active", "basic", quantity=8)
        await tab.until(lambda tab: tab.state["limits"]["seats"] == 8)
        assert (await system.state("tenant:other")) is None
        assert (await post(system, 200, "new", tenant_reference(SECRET, "acme"), "active")).json()[
            "outcome"
        ] == "applied"
        await tab.until(lambda tab: tab.plan == "pro")


@DOORS
async def test_s55_a_signed_checkout_releases_what_the_policy_parks(
    store_url: str, tmp_path: Path, post: Post, checkout: Post
) -> None:
    parking = CATALOG.replace("[policy]", '[policy]\nsecond_customer = "park"')
    async with run_cases(store_url, tmp_path, catalog=parking, TENANT_SECRET=SECRET) as system, system.tab() as tab:
        await post(system, 500, "own", "acme", "active", "basic")
        assert (await post(system, 400, "other", "acme", "active", created=450)).json()["outcome"] == "parked"
        assert (await checkout(system, "other", tenant_reference(SECRET, "acme"))).status_code == 200
        await tab.until(lambda tab: tab.plan == "pro")
        assert await system.parked() == []


@DOORS
async def test_s55_a_verified_reference_is_stronger_than_metadata_in_any_order(
    system: System, post: Post, checkout: Post
) -> None:
    signed = tenant_reference(SECRET, "right")
    for number, order in enumerate(itertools.permutations(range(3))):
        name = f"sub{number}"
        deliveries = (
            lambda: post(system, 400, name, "wrong", "active", created=450),  # noqa: B023 - awaited in this turn
            lambda: post(system, 300, name, signed, "active", created=450),  # noqa: B023
            lambda: post(system, 200, name, "wrong", "active", created=450),  # noqa: B023
        )
        for index in order:
            assert (await deliveries[index]()).status_code == 200
    wrong, right = await system.state("tenant:wrong"), await system.state("tenant:right")
    assert (wrong["plan"]["key"], right["plan"]["key"]) == ("free", "pro")
    held = await system.ask("GET", "/v1/tenants/right/status")
    assert len(held["store"]["subscriptions"]) == 6
    assert "second_customers" not in held["store"]


@DOORS
async def test_s55_a_checkout_that_no_secret_signed_waits_until_its_subscription_is_named(
    system: System, post: Post, checkout: Post
) -> None:
    answer = (await checkout(system, "own", tenant_reference(NEXT_SECRET, "acme"))).json()
    assert answer["outcome"] == "parked"
    assert "no secret in PLANWIRE_TENANT_SECRET signed the reference to 'acme'" in answer["reason"]
    assert (await post(system, 400, "own", None, "active")).json()["outcome"] == "parked"
    async with system.tab() as tab:
        await post(system, 300, "own", "acme", "active")
        await tab.until(lambda tab: tab.plan == "pro")
        assert await system.parked() == []
