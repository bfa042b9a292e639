"""The door of the webhooks: bodies of every size, the path with a slash at its end, and events of other accounts."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from sync.store import counters
from tests.support.bodies import SECRET, signature
from tests.support.cases import Delivery, load, post_stripe, run_cases, send
from tests.support.stripe import KEY, account as stripe_account
from tests.support.system import System, ago, event

OTHER = "acct_1Other000000000"


async def counted(system: System) -> int:
    """How many events of other accounts were ignored."""
    return (await counters.read(system.store)).get(("ignored_events", (("reason", "account"), ("env", "live"))), 0)


def of_checkout(event: Delivery, account: str) -> Delivery:
    """The completed checkout of a connected account that names a tenant and a subscription of ours."""
    session = {
        "id": "cs_1",
        "object": "checkout.session",
        "client_reference_id": "victim",
        "customer": "cus_other",
        "subscription": "sub_ours",
        "metadata": {"tenant_id": "victim"},
    }
    made = {"id": "evt_checkout", "type": "checkout.session.completed", "data": {"object": session}}
    return {**event, **made, "account": account}


class TestConnectedAccounts:
    """Scenario 64."""

    async def test_s64_an_event_of_a_connected_account_is_ignored_and_counted(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """It links nothing either: the subscription that it names stays free for its own tenant."""
        (delivery,) = load("11-connect-account")
        async with run_cases(store_url, tmp_path) as system, system.tab("tenant:victim") as tab:
            answers = [await send(system, delivery), await post_stripe(system, of_checkout(delivery["event"], OTHER))]
            thin = {
                "id": "evt_thin",
                "object": "v2.core.event",
                "type": "v1.customer.subscription.updated",
                "created": "2026-11-29T00:00:00Z",
                "livemode": True,
                "context": OTHER,
                "related_object": {"id": "sub_f11", "type": "subscription"},
            }
            answers.append(await post_stripe(system, thin))
            for answer in answers:
                assert (answer.status_code, answer.json()["outcome"]) == (200, "ignored")
                assert OTHER in answer.json()["reason"]
                assert "PLANWIRE_STRIPE_CONNECT_ACCOUNTS" in answer.json()["reason"]
            await tab.fence()
            assert (tab.version, tab.state) == (0, None)
            assert await system.parked() == []
            assert await counted(system) == 3
            assert not await system.store.redis.keys("*sub_f11*")
            assert not await system.store.redis.keys("*sub_ours*")
            metrics = (await system.http.get("/metrics")).text
            assert 'planwire_ignored_events_total{env="live",reason="account"}' in metrics

    @pytest.mark.parametrize("accounts", [f"acct_1Mine,{OTHER}", "*"])
    async def test_s64_a_configured_account_counts(self, accounts: str, store_url: str, tmp_path: Path) -> None:
        (delivery,) = load("11-connect-account")
        settings = {"STRIPE_CONNECT_ACCOUNTS": accounts}
        async with run_cases(store_url, tmp_path, **settings) as system, system.tab("tenant:victim") as tab:
            assert (await send(system, delivery)).json()["outcome"] == "applied"
            await tab.fence()
            assert (tab.plan, await counted(system)) == ("pro", 0)

    async def test_s64_a_configured_account_s_subscriptions_are_asked_for_there(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """A whole event, a thin one, and a comparison. The ids name the account, so that all know where to ask."""
        async with stripe_account() as stripe:
            whole, thin = stripe.add("victim", "price_pro_live", quantity=4), stripe.add(None, "price_pro_live")
            customers = [stripe.subscriptions[id]["customer"] for id in (whole, thin)]
            stripe.customers[customers[1]] = {"tenant_id": "other"}
            stripe.connected = dict.fromkeys([whole, thin, *customers], OTHER)
            event = {**stripe.change(whole), "account": OTHER}
            stripe.subscriptions[whole]["items"]["data"][0]["quantity"] = 7
            settings = {
                "STRIPE_CONNECT_ACCOUNTS": OTHER,
                "STRIPE_API_KEYS": f"live:{KEY}",
                "STRIPE_API_URL": stripe.url,
            }
            async with run_cases(store_url, tmp_path, **settings) as system, system.tab("tenant:victim") as tab:
                assert (await post_stripe(system, event)).json()["outcome"] == "applied"
                await tab.until(lambda tab: tab.plan == "pro")
                assert tab.state["limits"]["seats"] == 7
                body = json.loads(stripe.thin(thin)) | {"context": OTHER}
                assert (await post_stripe(system, body)).json()["outcome"] == "applied"
                assert (await system.state("tenant:other"))["plan"]["key"] == "pro"
                stripe.subscriptions[whole]["items"]["data"][0]["quantity"] = 9
                found = await system.ask("POST", "/v1/tenants/victim/reconcile")
                assert [drift["subject"] for drift in found["drift"]] == [f"stripe:{OTHER}/{whole}"]
                await tab.until(lambda tab: tab.state["limits"]["seats"] == 9)
                preview = {"items": [{"price_id": "price_pro_live", "quantity": 2}], "ask_provider": True}
                answer = await system.http.post("/v1/tenants/victim/preview", json=preview, headers=system.key)
                assert answer.status_code == 200, answer.text
                assert all(asked.endswith(f" of {OTHER}") for asked in stripe.asked), stripe.asked

    async def test_s64_another_account_than_the_configured_one_is_ignored(self, store_url: str, tmp_path: Path) -> None:
        (delivery,) = load("11-connect-account")
        async with run_cases(store_url, tmp_path, STRIPE_CONNECT_ACCOUNTS="acct_1Mine") as system:
            assert (await send(system, delivery)).json()["outcome"] == "ignored"
            own = dict(delivery["event"], id="evt_own")
            del own["account"]
            assert (await post_stripe(system, own)).json()["outcome"] == "applied"
            assert await counted(system) == 1


class TestBodies:
    """Scenario 65."""

    async def test_s65_a_subscription_of_a_hundred_items_is_taken(self, store_url: str, tmp_path: Path) -> None:
        """Paddle's maximum: about 100 kB. All items but one are unknown."""
        (first, _) = load("7-custom-price")
        data = first["event"]["data"]
        item = data["items"][0]
        price = item["price"]
        prices = ["pri_pro_live", *(f"pri_extra_{number}" for number in range(99))]
        data["items"] = [{**item, "price": {**price, "id": price_id}} for price_id in prices]
        assert len(json.dumps(first["event"])) > 90_000
        async with run_cases(store_url, tmp_path) as system, system.tab("tenant:f7") as tab:
            assert (await send(system, first)).json()["outcome"] == "applied"
            await tab.fence()
            assert (tab.plan, tab.state["limits"]["seats"]) == ("pro", 5)

    async def test_s65_the_limit_is_a_setting_of_its_own(self, store_url: str, tmp_path: Path) -> None:
        """A megabyte by default, whatever bodies of publishes may have. What is ignored is not kept for long."""
        small = {"BODY_MAX_BYTES": "2000", "WEBHOOK_BODY_MAX_BYTES": "300000"}
        async with run_cases(store_url, tmp_path, **small) as system:
            invoice = {
                "id": "evt_invoice",
                "object": "event",
                "type": "invoice.paid",
                "created": int(time.time()),
                "livemode": True,
                "data": {"object": {"id": "in_1", "lines": "x" * 70_000}},
            }
            assert (await post_stripe(system, invoice)).json()["outcome"] == "ignored"
            assert await system.store.redis.hget("pw:{inbox/live}:event:evt_invoice", "body") == b""
            too_large = await post_stripe(system, {**invoice, "id": "evt_large", "pad": "x" * 300_000})
            assert (too_large.status_code, too_large.json()["code"]) == (413, "body_too_large")
            assert "300000" in too_large.json()["detail"]
            published = await system.http.post("/v1/publish", content=b"x" * 3000, headers=system.key)
            assert published.status_code == 413

    async def test_s65_a_megabyte_is_the_default(self, system: System) -> None:
        body = event(ago(60))
        padded = body[:-1] + b', "pad": "' + b"x" * (1_048_576 - len(body) - 11) + b'"}'
        assert len(padded) == 1_048_576
        assert await system.outcome(padded) == "applied"
        assert (await system.deliver(padded + b" ")).status_code == 413

    @pytest.mark.parametrize("provider", ["paddle", "stripe"])
    async def test_s65_a_slash_at_the_end_of_the_path_is_served(
        self, provider: str, store_url: str, tmp_path: Path
    ) -> None:
        """Providers follow no redirect. It is counted as the same route."""
        async with run_cases(store_url, tmp_path) as system:
            body = event(ago(60), items=[("pri_pro_live", 1)])
            paddle = {"Paddle-Signature": signature(body, int(time.time()), SECRET)}
            if provider == "paddle":
                answer = await system.http.post("/webhooks/paddle/", content=body, headers=paddle)
                assert (answer.status_code, answer.json()["outcome"]) == (200, "applied")
            answer = await system.http.post(f"/webhooks/{provider}/", content=body)
            assert (answer.status_code, answer.json()["code"]) == (400, "signature_malformed")
            metrics = (await system.http.get("/metrics")).text
            assert f'route="/webhooks/{provider}",status="400"' in metrics
            assert f'route="/webhooks/{provider}/"' not in metrics
            assert (await system.http.post(f"/webhooks/{provider}/x", content=body)).status_code == 404
