"""Tenants named as people name them: by other metadata keys, and by ids of other systems."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from planwire_client import topic
from tests.support.asgi import serving
from tests.support.bodies import envelope, subscription
from tests.support.cases import load, post_stripe, run_cases, send
from tests.support.stripe import KEY, account
from tests.support.stripe_bodies import body
from tests.support.system import System, ago
from tests.support.wait import until

PRO = [("pri_pro_live", 2)]
FOREIGN: list[Any] = [
    "auth0|5f7c8ec7c33c6c004bbafe82", "jane+work@example.com", "org:42", "org/42", 42, "Zoë & Söhne", "東京", "a%7Cb",
    "3f0e0c5c-8e7b-4f0e-9a44-0c1f3c8d2b11", "🙂" * 32,
]  # fmt: skip


def paddle(number: int, custom_data: object, **fields: Any) -> bytes:
    at = ago(60)
    made = {"id": f"sub_{number}", "customer_id": f"ctm_{number}", "updated_at": at, "items": PRO, **fields}
    data = subscription(**made) | {"custom_data": custom_data}
    return json.dumps(envelope(data, occurred_at=at, event_type="subscription.created")).encode()


def stripe(number: int, metadata: object, **fields: Any) -> dict[str, Any]:
    now = int(time.time())
    items = {"data": [{"id": "si_1", "price": {"id": "price_pro_live"}, "quantity": 2}]}
    data = body(**{"id": f"sub_s{number}", "customer": f"cus_{number}", "metadata": metadata, "items": items, **fields})
    kind = "customer.subscription.created"
    return {"id": f"evt_{number}", "type": kind, "created": now, "livemode": True, "data": {"object": data}}


async def test_s56_the_keys_of_the_setting_and_foreign_ids_name_tenants(store_url: str, tmp_path: Path) -> None:
    own, foreign = load("6-tenant-key")
    fields = "tenant_id,tenantId,user_id"
    async with (
        run_cases(store_url, tmp_path, TENANT_FIELDS=fields) as system,
        system.tab("tenant:u_501") as one,
        system.tab(topic("tenant", "auth0|5f7c8ec7c33c6c004bbafe82")) as other,
    ):
        for delivery in (own, foreign):
            assert (await send(system, delivery)).json()["outcome"] == "applied"
        for tab in (one, other):
            await tab.until(lambda tab: tab.plan == "pro")
        assert await system.parked() == []


async def test_s56_without_the_setting_the_parked_event_says_which_key_is_there(store_url: str, tmp_path: Path) -> None:
    async with run_cases(store_url, tmp_path) as system:
        assert (await send(system, load("6-tenant-key")[0])).json()["outcome"] == "parked"
        (parked,) = await system.parked()
        assert "'user_id'" in parked["reason"]
        assert "PLANWIRE_TENANT_FIELDS" in parked["reason"]
    # It is applied once a worker starts with the key in the setting.
    async with (
        run_cases(store_url, tmp_path, TENANT_FIELDS="user_id") as system,
        system.tab("tenant:u_501") as tab,
        system.working(),
    ):
        await tab.until(lambda tab: tab.plan == "pro", 30)
        await until(partial(is_none_parked, system))


@pytest.mark.parametrize("provider", ["paddle", "stripe"])
async def test_s56_every_id_of_another_system_is_one_tenant(store_url: str, tmp_path: Path, provider: str) -> None:
    async with run_cases(store_url, tmp_path) as system:
        for number, id_ in enumerate(FOREIGN):
            async with system.tab(topic("tenant", id_)) as tab:
                await deliver(system, provider, number, {"tenantId": id_})
                await tab.until(lambda tab: tab.plan == "pro")
        assert await system.parked() == []


@pytest.mark.parametrize("provider", ["paddle", "stripe"])
async def test_s56_values_that_name_nobody_are_refused_and_shown(store_url: str, tmp_path: Path, provider: str) -> None:
    bad: list[Any] = ["undefined", "null", "[object Object]", "", " ", "acme ", 2**53, 1.5, True, {}, "x" * 129]
    async with run_cases(store_url, tmp_path) as system:
        for number, value in enumerate(bad):
            assert await deliver(system, provider, number, {"tenant_id": value}) == "parked"
        reasons = {parked["event_id"]: parked["reason"] for parked in await system.parked()}
        assert len(reasons) == len(bad)
        shown = " ".join(reasons.values())
        for text in ("'undefined'", "'null'", "'[object Object]'", "''", "' '", "'acme '", str(2**53), "1.5", "True"):
            assert f"tenant_id: {text} " in shown
        assert await system.store.versions(["tenant:undefined", "tenant:null"]) == [0, 0]
        # The next key in order is used where the first names nobody.
        assert await deliver(system, provider, 50, {"tenant_id": "undefined", "tenantId": "real"}) == "applied"


async def test_s56_the_customer_names_the_tenant_where_the_subscription_does_not(
    store_url: str, tmp_path: Path
) -> None:
    """By its metadata at the provider; the subscription's own name is stronger. Without a permission it is parked."""
    async with account() as account_:
        account_.customers = {"cus_1": {"tenantId": "auth0|5f"}, "cus_2": {"tenant_id": "weaker"}, "cus_3": {}}
        keys = {"STRIPE_API_KEYS": f"live:{KEY}", "STRIPE_API_URL": account_.url, "STRIPE_API_RATE_PER_S": "1000"}
        async with (
            run_cases(store_url, tmp_path, **keys) as system,
            system.tab(topic("tenant", "auth0|5f")) as named,
            system.tab("tenant:own") as own,
        ):
            for number, metadata in ((1, {}), (2, {"tenant_id": "own"}), (3, {}), (4, {})):
                event = stripe(number, metadata)
                account_.subscriptions[f"sub_s{number}"] = event["data"]["object"]
                answer = (await post_stripe(system, event)).json()
                assert answer["outcome"] == ("applied" if number < 3 else "parked"), answer
            for tab in (named, own):
                await tab.until(lambda tab: tab.plan == "pro")
            reasons = {one["event_id"]: one["reason"] for one in await system.parked()}
            assert "nor on its customer" in reasons["evt_3"]
            assert "its customer cannot be read: not_found" in reasons["evt_4"]
            # The link is known from then on: nobody asks again.
            asked = len(account_.asked)
            later = stripe(1, {}) | {"id": "evt_later", "type": "customer.subscription.updated"}
            assert (await post_stripe(system, later)).json()["outcome"] != "parked"
            assert not [one for one in account_.asked[asked:] if "customers" in one]


@pytest.mark.parametrize("provider", ["paddle", "stripe"])
async def test_s56_a_customer_s_own_events_name_its_subscriptions_without_an_api_key(
    store_url: str, tmp_path: Path, provider: str
) -> None:
    """What waits is released, what comes later is known, and another name of the customer moves both."""
    async with (
        run_cases(store_url, tmp_path) as system,
        system.tab(topic("tenant", "org/42")) as first,
        system.tab("tenant:second") as second,
    ):
        for number in (1, 2):
            assert await deliver(system, provider, number, None, **of(provider, "1")) == "parked"
        assert await customer(system, provider, 50, None) == "ignored"
        assert await customer(system, provider, 40, {"tenantId": "org/42"}) == "unchanged"
        await first.until(lambda tab: tab.plan == "pro")
        assert await system.parked() == []
        assert await deliver(system, provider, 3, {}, **of(provider, "1")) == "applied"
        assert await customer(system, provider, 30, {"tenant_id": "second"}) == "applied"
        await first.until(lambda tab: tab.plan == "free")
        await second.until(lambda tab: tab.plan == "pro")
        assert await customer(system, provider, 35, {"tenant_id": "late"}) == "unchanged"
        links = (await system.ask("GET", "/v1/tenants/second/links"))["links"]
        assert [(link["named_by"], link["names"]) for link in links] == [("customer", {"customer": "second"})] * 3


async def is_none_parked(system: System) -> bool:
    return await system.parked() == []


def of(provider: str, customer: str) -> dict[str, str]:
    return {"customer_id": f"ctm_{customer}"} if provider == "paddle" else {"customer": f"cus_{customer}"}


async def customer(system: System, provider: str, age_s: float, metadata: object) -> str:
    """The outcome of an event of customer 1."""
    if provider == "paddle":
        data = {"id": "ctm_1", "email": "jane@example.com", "custom_data": metadata}
        body = envelope(data, occurred_at=ago(age_s), event_type="customer.updated")
        return await system.outcome(json.dumps(body).encode())
    data = {"id": "cus_1", "object": "customer", "metadata": metadata}
    made = {"id": f"evt_c{age_s}", "type": "customer.updated", "created": int(time.time() - age_s), "livemode": True}
    return str((await post_stripe(system, made | {"data": {"object": data}})).json()["outcome"])


async def test_s56_a_customer_of_paddle_names_the_tenant_once_paddle_answers(store_url: str, tmp_path: Path) -> None:
    held = json.loads(paddle(1, None))["data"]
    answers = {
        "/customers/ctm_1": {"id": "ctm_1", "custom_data": {"tenant_id": "org/42"}},
        "/subscriptions/sub_1": held,
    }
    is_away = True

    async def answer(request: Request) -> Response:
        if is_away:
            return Response(status_code=503)
        return JSONResponse({"data": answers[request.url.path]})

    async with (
        serving(Starlette(routes=[Route("/{path:path}", answer)])) as url,
        run_cases(store_url, tmp_path, PADDLE_API_KEYS="live:key", PADDLE_API_URL=url) as system,
        system.tab(topic("tenant", "org/42")) as tab,
    ):
        assert await system.outcome(paddle(1, None)) == "parked"
        # The event is not given up: it waits for Paddle, in the inbox.
        assert await system.parked() == []
        is_away = False
        async with system.working():
            await until(partial(processed, system, topic("tenant", "org/42")), 40)
            await tab.until(lambda tab: tab.plan == "pro")


async def processed(system: System, name: str) -> bool:
    """Have the worker take what waits in the inbox now; return whether the topic has a state."""
    waiting: Any = await system.store.redis.zrange("pw:{inbox/live}:pending", 0, -1)
    for event_id in waiting:
        await system.store.redis.zadd("pw:{inbox/live}:pending", {event_id: 0}, xx=True)
    (version,) = await system.store.versions([name])
    return version > 0


async def deliver(system: System, provider: str, number: int, metadata: object, **fields: Any) -> str:
    """The outcome of a new subscription with this metadata."""
    if provider == "paddle":
        return await system.outcome(paddle(number, metadata, **fields))
    response = await post_stripe(system, stripe(number, metadata, **fields))
    assert response.status_code == 200, response.text
    return str(response.json()["outcome"])
