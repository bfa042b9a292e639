"""The simulator as its users meet it: over HTTP, through the official SDK, with a receiver of webhooks, restarted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx2
import pytest
from paddle_billing import Client, Options
from paddle_billing.Entities.DateTime import DateTime
from paddle_billing.Entities.Events import EventTypeName
from paddle_billing.Entities.Shared import CustomData
from paddle_billing.Entities.Subscriptions import (
    SubscriptionEffectiveFrom,
    SubscriptionOnPaymentFailure,
    SubscriptionProrationBillingMode,
    SubscriptionScheduledChangeAction,
    SubscriptionStatus,
)
from paddle_billing.Exceptions.ApiError import ApiError
from paddle_billing.Notifications import Secret, Verifier
from paddle_billing.Notifications.Entities.Subscription import Subscription as WebhookSubscription
from paddle_billing.Resources.Events.Operations import ListEvents
from paddle_billing.Resources.Shared.Operations import Comparator, DateComparison, Pager
from paddle_billing.Resources.Subscriptions.Operations import (
    CancelSubscription,
    ListSubscriptions,
    PauseSubscription,
    PreviewUpdateSubscription,
    ResumeSubscription,
    SubscriptionIncludes,
    UpdateSubscription,
)
from paddle_billing.Resources.Subscriptions.Operations.Update import SubscriptionUpdateItem
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sync.billing.catalog import catalog
from sync.billing.catalog.watcher import EXAMPLE
from sync.simulator import persistence, provider
from sync.simulator.app import create_app
from sync.simulator.client import ActionResult, SimulatorError, run_action
from sync.simulator.provider import Provider
from sync.simulator.world import offers
from sync.simulator.world.model import SECOND_US
from tests.support.asgi import listening, serving
from tests.support.servers import free_port
from tests.support.wait import until

T = TypeVar("T")

SECRETS = {"live": ("pdl_ntfset_live",), "sandbox": ("pdl_ntfset_old", "pdl_ntfset_new")}
KEYS = {"live": ("key_live",), "sandbox": ("key_sandbox",)}
CATALOG = catalog.load(EXAMPLE)


def price_id(key: str, env: str = "live") -> str:
    sold = offers.of(CATALOG, env)
    offer = sold.plan(key) or sold.addon(key)
    assert offer is not None
    return offer.prices[0].id


@dataclass
class Receiver:
    """Takes webhooks as an application would, and keeps them; `answers` are given first, then 200.

    `asked`: how many came, those that are not answered before `hold` is set included.
    """

    answers: list[Response] = field(default_factory=list)
    got: list[Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    hold: asyncio.Event | None = None
    asked: int = 0

    async def take(self, request: Request) -> Response:
        body = await request.body()
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        self.got.append(request)
        self.bodies.append(body)
        return self.answers.pop(0) if self.answers else JSONResponse({"outcome": "applied"})

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    @property
    def kinds(self) -> list[str]:
        return [event["event_type"] for event in self.events]

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/webhooks/paddle", self.take, methods=["POST"])])


@dataclass
class Simulator:
    """A running simulator, its clock and its receiver."""

    url: str
    provider: Provider
    receiver: Receiver
    clock: Clock

    async def act(self, action: str, tenant: str = "acme", **params: Any) -> ActionResult:
        return await asyncio.to_thread(run_action, self.url, action, tenant, **params)

    async def waited(self, action: str, tenant: str = "acme", **params: Any) -> ActionResult:
        return await self.act(action, tenant, wait=True, **params)

    async def sdk(self, ask: Callable[[Client], T], key: str = "key_live") -> T:
        """What the official SDK answers to `ask`, in a thread as it blocks."""

        def run() -> T:
            client = Client(key, Options(environment=SimpleNamespace(base_url=self.url)), retry_count=0)
            with closing(client.client):
                return ask(client)

        return await asyncio.to_thread(run)

    async def deliveries(self) -> dict[str, Any]:
        async with httpx2.AsyncClient(base_url=self.url) as http:
            answer: dict[str, Any] = (await http.get("/simulate/deliveries")).json()
            return answer


@dataclass
class Clock:
    """The real time, moved by `ahead_us`."""

    ahead_us: int = 0

    def __call__(self) -> int:
        return time.time_ns() // 1000 + self.ahead_us


@asynccontextmanager
async def simulating(data_dir: Path, receiver: Receiver, webhook_url: str = "") -> AsyncIterator[Simulator]:
    clock = Clock()
    async with serving(receiver.app) as web:
        running = Provider(
            data_dir,
            lambda: CATALOG,
            webhook_url or f"{web}/webhooks/paddle",
            SECRETS,
            clock,
            Random(1),
            pause_first_s=0.02,
        )
        async with serving(create_app(running, KEYS)) as url:
            yield Simulator(url, running, receiver, clock)


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with simulating(tmp_path, Receiver()) as running:
        yield running


async def refusal(simulator: Simulator, ask: Callable[[Client], object], key: str = "key_live") -> ApiError:
    with pytest.raises(ApiError) as error:
        await simulator.sdk(ask, key)
    return error.value


# The API, through the official SDK.


async def test_the_sdk_gets_a_subscription(simulator: Simulator) -> None:
    made = await simulator.waited("upgrade", plan="pro", quantity=3)

    got = await simulator.sdk(
        lambda client: client.subscriptions.get(
            made.subscription_id,
            [SubscriptionIncludes.NextTransaction, SubscriptionIncludes.RecurringTransactionDetails],
        )
    )

    assert got.id == made.subscription_id
    assert got.status == SubscriptionStatus.Active
    assert got.custom_data.data == {"tenant_id": "acme"}
    assert [(item.price.id, item.quantity) for item in got.items] == [(price_id("pro"), 3)]
    assert got.next_transaction.details.totals.total == "6000"
    assert got.recurring_transaction_details.totals.total == "6000"


async def test_the_sdk_lists_all_pages(simulator: Simulator) -> None:
    made = [(await simulator.act("upgrade", f"t{n}", deliver=False)).subscription_id for n in range(5)]

    listed = await simulator.sdk(lambda client: list(client.subscriptions.list(ListSubscriptions(Pager(per_page=2)))))

    assert [subscription.id for subscription in listed] == made


async def test_the_sdk_s_filters_choose(simulator: Simulator) -> None:
    first, second = [(await simulator.act("upgrade", f"t{n}", deliver=False)).subscription_id for n in range(2)]
    await simulator.act("cancel", "t1", deliver=False)

    async def chosen(**filters: Any) -> list[str]:
        listed = await simulator.sdk(lambda client: list(client.subscriptions.list(ListSubscriptions(**filters))))
        return [subscription.id for subscription in listed]

    assert await chosen(scheduled_change_actions=[SubscriptionScheduledChangeAction.Cancel]) == [second]
    assert await chosen(statuses=[SubscriptionStatus.Active]) == [first, second]
    assert await chosen(statuses=[SubscriptionStatus.Canceled]) == []
    assert await chosen(ids=[first]) == [first]
    assert await chosen(price_ids=[price_id("basic")]) == [first, second]
    soon = DateComparison(DateTime("2020-01-01T00:00:00Z"), Comparator.GT)
    assert await chosen(next_billed_at=soon) == [first]


async def test_the_sdk_updates_items(simulator: Simulator) -> None:
    made = await simulator.waited("upgrade", plan="basic")
    operation = UpdateSubscription(
        items=[SubscriptionUpdateItem(price_id("pro"), 2), SubscriptionUpdateItem(price_id("audit"), 1)],
        proration_billing_mode=SubscriptionProrationBillingMode.ProratedImmediately,
        on_payment_failure=SubscriptionOnPaymentFailure.PreventChange,
        custom_data=CustomData({"tenant_id": "acme", "seat": "window"}),
    )

    got = await simulator.sdk(lambda client: client.subscriptions.update(made.subscription_id, operation))

    assert [(item.price.name, item.quantity) for item in got.items] == [("Pro", 2), ("Audit log", 1)]
    assert got.custom_data.data == {"tenant_id": "acme", "seat": "window"}
    await until(lambda: simulator.receiver.kinds[3:] == ["subscription.updated", "transaction.completed"])


async def test_the_sdk_previews_without_changing(simulator: Simulator) -> None:
    made = await simulator.act("upgrade", plan="basic", deliver=False)
    operation = PreviewUpdateSubscription(
        items=[SubscriptionUpdateItem(price_id("pro"), 1)],
        proration_billing_mode=SubscriptionProrationBillingMode.FullImmediately,
    )

    preview = await simulator.sdk(lambda client: client.subscriptions.preview_update(made.subscription_id, operation))

    assert [item.price.name for item in preview.items] == ["Pro"]
    assert preview.update_summary.result.amount == "1000"
    assert preview.immediate_transaction.details.totals.grand_total == "1000"
    after = await simulator.sdk(lambda client: client.subscriptions.get(made.subscription_id))
    assert [item.price.name for item in after.items] == ["Basic"]


async def test_the_sdk_schedules_a_cancel_and_takes_it_back(simulator: Simulator) -> None:
    made = (await simulator.act("upgrade", deliver=False)).subscription_id

    canceled = await simulator.sdk(lambda client: client.subscriptions.cancel(made, CancelSubscription()))
    assert canceled.scheduled_change.action == SubscriptionScheduledChangeAction.Cancel
    assert canceled.scheduled_change.effective_at == canceled.current_billing_period.ends_at
    assert canceled.next_billed_at is None

    back = await simulator.sdk(
        lambda client: client.subscriptions.update(made, UpdateSubscription(scheduled_change=None))
    )
    assert back.scheduled_change is None

    now = CancelSubscription(SubscriptionEffectiveFrom.Immediately)
    gone = await simulator.sdk(lambda client: client.subscriptions.cancel(made, now))
    assert gone.status == SubscriptionStatus.Canceled


async def test_the_sdk_pauses_and_resumes(simulator: Simulator) -> None:
    made = (await simulator.act("upgrade", deliver=False)).subscription_id

    pause = PauseSubscription(SubscriptionEffectiveFrom.Immediately, DateTime("2040-01-01T00:00:00Z"))
    paused = await simulator.sdk(lambda client: client.subscriptions.pause(made, pause))
    assert paused.status == SubscriptionStatus.Paused
    assert paused.scheduled_change.action == SubscriptionScheduledChangeAction.Resume

    resumed = await simulator.sdk(lambda client: client.subscriptions.resume(made, ResumeSubscription()))
    assert (resumed.status, resumed.scheduled_change) == (SubscriptionStatus.Active, None)


async def test_the_sdk_activates_a_trial(simulator: Simulator) -> None:
    made = (await simulator.act("trial", deliver=False)).subscription_id

    active = await simulator.sdk(lambda client: client.subscriptions.activate(made))

    assert active.status == SubscriptionStatus.Active


async def test_the_sdk_lists_events_with_their_entities(simulator: Simulator) -> None:
    await simulator.act("upgrade", deliver=False)
    await simulator.act("past_due", deliver=False)

    events = await simulator.sdk(lambda client: list(client.events.list(ListEvents(Pager(per_page=2)))))

    assert [str(event.event_type) for event in events] == [
        "subscription.created",
        "subscription.activated",
        "transaction.completed",
        "subscription.updated",
        "subscription.updated",
        "subscription.past_due",
    ]
    assert [type(event.data).__name__ for event in events] == [
        "SubscriptionCreated",
        "Subscription",
        "Transaction",
        "Subscription",
        "Subscription",
        "Subscription",
    ]
    rest = await simulator.sdk(lambda client: list(client.events.list(ListEvents(Pager(after=events[3].event_id)))))
    assert [event.event_id for event in rest] == [event.event_id for event in events[4:]]
    overdue = ListEvents(event_types=[EventTypeName.SubscriptionPastDue])
    assert len(await simulator.sdk(lambda client: list(client.events.list(overdue)))) == 1


async def test_the_sdk_meets_paddle_s_refusals(simulator: Simulator) -> None:
    made = (await simulator.act("upgrade", deliver=False)).subscription_id
    await simulator.act("past_due", deliver=False)
    operation = UpdateSubscription(
        items=[SubscriptionUpdateItem(price_id("pro"), 1)],
        proration_billing_mode=SubscriptionProrationBillingMode.DoNotBill,
    )

    error = await refusal(simulator, lambda client: client.subscriptions.update(made, operation))

    assert (error.error_code, error.response.status_code) == ("subscription_update_when_past_due", 400)
    assert error.docs_url.endswith("/errors/subscriptions/subscription_update_when_past_due")


async def test_the_sdk_meets_the_lock_before_a_renewal(simulator: Simulator) -> None:
    made = (await simulator.act("upgrade", deliver=False, ends_in_s=1_799)).subscription_id
    operation = UpdateSubscription(
        items=[SubscriptionUpdateItem(price_id("pro"), 1)],
        proration_billing_mode=SubscriptionProrationBillingMode.ProratedImmediately,
    )

    error = await refusal(simulator, lambda client: client.subscriptions.update(made, operation))

    assert (error.error_code, error.response.status_code) == ("subscription_locked_renewal", 409)


async def test_a_key_opens_its_own_environment_only(simulator: Simulator) -> None:
    made = (await simulator.act("upgrade", env="sandbox", deliver=False)).subscription_id

    assert (await simulator.sdk(lambda client: client.subscriptions.get(made), "key_sandbox")).id == made
    error = await refusal(simulator, lambda client: client.subscriptions.get(made))
    assert (error.error_code, error.response.status_code) == ("not_found", 404)
    wrong = await refusal(simulator, lambda client: client.subscriptions.list(), "key_of_another")
    assert (wrong.error_code, wrong.response.status_code) == ("forbidden", 403)


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "code"),
    [
        ("GET", "/subscriptions", {"authorization": ""}, b"", 403, "authentication_malformed"),
        ("GET", "/events", {"authorization": "Basic key_live"}, b"", 403, "authentication_malformed"),
        ("GET", "/subscriptions/sub_x", {}, b"", 404, "not_found"),
        ("GET", "/products", {}, b"", 404, "not_found"),
        ("PATCH", "/subscriptions/sub_x", {}, b"{", 400, "invalid_json"),
        ("PATCH", "/subscriptions/sub_x", {}, b" " * 65_537, 413, "request_body_too_large"),
        ("POST", "/subscriptions/sub_x/fly", {}, b"{}", 404, "not_found"),
        ("DELETE", "/subscriptions/sub_x", {}, b"", 405, "not_found"),
        ("GET", "/subscriptions?per_page=x", {}, b"", 400, "invalid_field"),
    ],
)
async def test_the_api_s_errors_have_paddle_s_shape(
    simulator: Simulator, method: str, path: str, headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    async with httpx2.AsyncClient(base_url=simulator.url, headers={"authorization": "Bearer key_live"}) as http:
        response = await http.request(method, path, headers=headers, content=body)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.json()["meta"]["request_id"]


async def test_without_a_key_nothing_is_shown(simulator: Simulator) -> None:
    async with httpx2.AsyncClient(base_url=simulator.url) as http:
        response = await http.get("/subscriptions")

    assert (response.status_code, response.json()["error"]["code"]) == (403, "authentication_missing")


# The webhooks.


async def test_webhooks_pass_the_sdk_s_verifier_and_parse(simulator: Simulator) -> None:
    await simulator.waited("upgrade")

    assert simulator.receiver.kinds == ["subscription.created", "subscription.activated", "transaction.completed"]
    for request, body, event in zip(
        simulator.receiver.got, simulator.receiver.bodies, simulator.receiver.events, strict=True
    ):
        received = SimpleNamespace(body=body, headers=request.headers)
        assert Verifier().verify(received, Secret("pdl_ntfset_live"))
        assert not Verifier().verify(received, Secret("pdl_ntfset_old"))
        assert event["event_id"].startswith("evt_")
        assert event["notification_id"].startswith("ntf_")
        WebhookSubscription.from_dict(event["data"]) if "subscription." in event["event_type"] else None


async def test_an_environment_signs_with_its_own_secrets_all_of_them(simulator: Simulator) -> None:
    await simulator.waited("upgrade", env="sandbox")

    received = SimpleNamespace(body=simulator.receiver.bodies[0], headers=simulator.receiver.got[0].headers)
    assert Verifier().verify(received, Secret("pdl_ntfset_old"))
    assert Verifier().verify(received, Secret("pdl_ntfset_new"))
    assert not Verifier().verify(received, Secret("pdl_ntfset_live"))


async def test_a_failed_renewal_arrives_as_three_events(simulator: Simulator) -> None:
    await simulator.waited("upgrade")
    await simulator.waited("past_due")

    told = [(event["event_type"], event["data"]["status"]) for event in simulator.receiver.events[3:]]
    assert told == [
        ("subscription.updated", "active"),
        ("subscription.updated", "past_due"),
        ("subscription.past_due", "past_due"),
    ]


async def test_waiting_tells_how_the_receiver_answered(simulator: Simulator) -> None:
    simulator.receiver.answers = [
        JSONResponse({"outcome": "applied"}),
        JSONResponse({"code": "signature_invalid"}, 403),
        Response("<html>", 502),
    ]

    result = await simulator.waited("upgrade")

    assert [(each.event_type, each.state, each.status, each.outcome) for each in result.deliveries] == [
        ("subscription.created", "delivered", 200, "applied"),
        ("subscription.activated", "retrying", 403, "signature_invalid"),
        ("transaction.completed", "retrying", 502, None),
    ]


async def test_what_is_not_accepted_is_sent_again(simulator: Simulator) -> None:
    simulator.receiver.answers = [Response(status_code=503) for _ in range(4)]

    await simulator.act("upgrade")

    await until(lambda: len(simulator.provider.courier) == 0)
    assert len(simulator.receiver.events) == 7
    first = simulator.receiver.events[0]
    again = [event for event in simulator.receiver.events[1:] if event["event_id"] == first["event_id"]]
    assert again
    assert all(event == first for event in again)
    attempts = (await simulator.deliveries())["attempts"]
    states = [each["state"] for each in attempts if each["event_id"] == first["event_id"]]
    assert states == ["retrying"] * (len(states) - 1) + ["delivered"]


async def test_each_attempt_is_signed_anew(simulator: Simulator) -> None:
    receiver = simulator.receiver
    receiver.answers, receiver.hold = [Response(status_code=503)], asyncio.Event()
    simulator.clock.ahead_us = -100 * SECOND_US
    await simulator.act("upgrade")
    # The first is signed and not yet answered: whatever comes after it comes after the clock was put right.
    await until(lambda: receiver.asked == 1)
    simulator.clock.ahead_us = 0
    receiver.hold.set()
    await until(lambda: len(simulator.provider.courier) == 0)

    assert receiver.events[-1] == receiver.events[0]
    first, last = (SimpleNamespace(body=receiver.bodies[n], headers=receiver.got[n].headers) for n in (0, -1))
    assert not Verifier().verify(first, Secret("pdl_ntfset_live"))
    assert Verifier().verify(last, Secret("pdl_ntfset_live"))


async def test_an_event_can_be_kept_from_the_receiver(simulator: Simulator) -> None:
    hidden = await simulator.act("upgrade", deliver=False)
    shown = await simulator.waited("cancel")

    assert [event["event_id"] for event in simulator.receiver.events] == list(shown.event_ids)
    listed = await simulator.sdk(lambda client: list(client.events.list()))
    assert [event.event_id for event in listed] == [*hidden.event_ids, *shown.event_ids]


async def test_a_replay_has_the_event_s_id_and_a_new_one_of_its_own(simulator: Simulator) -> None:
    made = await simulator.waited("upgrade")

    async with httpx2.AsyncClient(base_url=simulator.url) as http:
        answer = await http.post("/simulate/replay", json={"event_id": made.event_ids[0], "wait": True})
        missing = await http.post("/simulate/replay", json={"event_id": "evt_x"})

    original, replayed = simulator.receiver.events[0], simulator.receiver.events[-1]
    assert answer.json()["deliveries"][0]["status"] == 200
    assert replayed["event_id"] == original["event_id"]
    assert replayed["notification_id"] == answer.json()["notification_id"] != original["notification_id"]
    assert (missing.status_code, missing.json()["code"]) == (404, "no_event")


async def test_no_receiver_is_told_and_retried(tmp_path: Path) -> None:
    async with simulating(tmp_path, Receiver(), f"http://127.0.0.1:{free_port()}/webhooks/paddle") as simulator:
        result = await simulator.waited("upgrade")

        assert [each.state for each in result.deliveries] == ["retrying"] * 3
        assert all(each.status is None and each.error for each in result.deliveries)
        assert (await simulator.deliveries())["waiting"] == 3


async def test_the_queue_is_bounded_and_a_refused_action_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "QUEUE_LIMIT", 4)
    receiver = Receiver(hold=asyncio.Event())
    async with simulating(tmp_path, receiver) as simulator:
        await simulator.act("upgrade")

        with pytest.raises(SimulatorError, match="wait for delivery") as error:
            await simulator.act("past_due")

        assert error.value.code == "queue_full"
        assert [each.status for each in simulator.provider.world.subscriptions.values()] == ["active"]
        assert receiver.hold is not None
        receiver.hold.set()
        await until(lambda: len(simulator.provider.courier) == 0)
        assert (await simulator.waited("past_due")).status == "past_due"


# Time, and what survives.


async def test_what_falls_due_happens_by_itself(simulator: Simulator) -> None:
    await simulator.waited("upgrade", "renews")
    await simulator.waited("upgrade", "ends")
    await simulator.waited("cancel", "ends")
    await simulator.waited("trial", "tries", days=14)
    seen = len(simulator.receiver.events)

    simulator.clock.ahead_us = 32 * 24 * 3600 * SECOND_US

    def told() -> set[tuple[str, str]]:
        return {
            (event["event_type"], (event["data"]["custom_data"] or {})["tenant_id"])
            for event in simulator.receiver.events[seen:]
        }

    await until(
        lambda: (
            told()
            >= {
                ("subscription.updated", "renews"),
                ("transaction.completed", "renews"),
                ("subscription.canceled", "ends"),
                ("subscription.activated", "tries"),
            }
        )
    )


async def test_a_restart_keeps_subscriptions_and_owed_deliveries(tmp_path: Path) -> None:
    refusing = Receiver(answers=[Response(status_code=503) for _ in range(1000)])
    async with simulating(tmp_path, refusing) as simulator:
        made = await simulator.waited("upgrade")
        await until(lambda: len(refusing.events) >= 6)

    receiver = Receiver()
    async with simulating(tmp_path, receiver) as again:
        got = await again.sdk(lambda client: client.subscriptions.get(made.subscription_id))
        assert got.id == made.subscription_id
        await until(lambda: len(again.provider.courier) == 0)

    assert sorted(event["event_id"] for event in receiver.events) == sorted(made.event_ids)
    sent_before = {event["event_id"]: event["notification_id"] for event in refusing.events}
    assert {event["event_id"]: event["notification_id"] for event in receiver.events} == sent_before


async def test_what_was_delivered_is_not_delivered_again_after_a_restart(tmp_path: Path) -> None:
    async with simulating(tmp_path, Receiver()) as simulator:
        await simulator.waited("upgrade")

    receiver = Receiver()
    async with simulating(tmp_path, receiver) as again:
        await again.waited("cancel")

    assert receiver.kinds == ["subscription.updated"]


async def test_a_disk_that_fails_changes_nothing(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(persistence, "save", full)
    with pytest.raises(SimulatorError, match="No space left") as error:
        await simulator.act("upgrade")

    assert error.value.code == "disk"
    assert not simulator.provider.world.subscriptions
    assert simulator.receiver.events == []


# The control routes.


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code"),
    [
        ("/simulate/downgrade", {"tenant": "acme"}, {}, 409, "no_subscription"),
        ("/simulate/fly", {"tenant": "acme"}, {}, 404, "unknown_action"),
        ("/simulate/upgrade", {}, {}, 400, "invalid_parameter"),
        ("/simulate/upgrade", [], {}, 400, "invalid_parameter"),
        ("/simulate/upgrade", {"tenant": "acme", "wait": "yes"}, {}, 400, "invalid_parameter"),
        ("/simulate/upgrade", {"tenant": "acme", "env": "moon"}, {}, 400, "unknown_environment"),
        ("/simulate/upgrade", {"tenant": "acme"}, {"content-type": "text/plain"}, 415, "not_json"),
        ("/simulate/upgrade", {"tenant": "a" * 70_000}, {}, 413, "request_body_too_large"),
        ("/simulate/upgrade", {"tenant": "acme"}, {"host": "evil.example"}, 403, "not_loopback"),
        ("/simulate/upgrade/now", {"tenant": "acme"}, {}, 404, "no_route"),
        ("/simulate/deliveries", {"tenant": "acme"}, {}, 404, "unknown_action"),
    ],
)
async def test_the_control_s_errors_are_problems(
    simulator: Simulator, path: str, body: Any, headers: dict[str, str], status: int, code: str
) -> None:
    async with httpx2.AsyncClient(base_url=simulator.url) as http:
        response = await http.post(
            path, content=json.dumps(body), headers={"content-type": "application/json"} | headers
        )

    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, response.json()["status"], response.json()["code"]) == (status, status, code)
    assert response.json()["detail"]
    assert not simulator.provider.world.subscriptions


async def test_a_provider_s_refusal_is_a_conflict_in_the_control(simulator: Simulator) -> None:
    await simulator.act("upgrade", deliver=False)

    with pytest.raises(SimulatorError) as error:
        await simulator.act("resume")

    assert error.value.code == "subscription_must_be_paused"


async def test_the_control_shows_what_there_is(simulator: Simulator) -> None:
    await simulator.act("upgrade", deliver=False)
    await simulator.act("upgrade", "other", deliver=False)

    async with httpx2.AsyncClient(base_url=simulator.url) as http:
        mine = (await http.get("/simulate/subscriptions", params={"tenant": "acme"})).json()["subscriptions"]
        words = (await http.get("/simulate")).json()
        health = await http.get("/healthz")

    assert [(each["tenant"], each["env"], each["status"]) for each in mine] == [("acme", "live", "active")]
    assert words["environments"] == ["live", "sandbox"]
    assert "plan" in words["actions"]["upgrade"]
    assert health.json() == {"status": "ok", "subscriptions": 2}


async def test_many_actions_at_once_each_happen_once(simulator: Simulator) -> None:
    await asyncio.gather(*(simulator.act("upgrade", f"t{n}") for n in range(20)))

    await until(lambda: len(simulator.provider.courier) == 0)
    ids = [event["event_id"] for event in simulator.receiver.events]
    assert len(ids) == len(set(ids)) == 60
    assert ids == sorted(ids)


# The process.


def start(environ: dict[str, str], *, data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sync.simulator"],
        env={"PATH": os.environ["PATH"], "PLANWIRE_DATA_DIR": str(data_dir), **environ},
        stderr=subprocess.PIPE,
        text=True,
    )


ENVIRON = {
    "PLANWIRE_SIMULATOR_URL": "http://127.0.0.1:0",
    "PLANWIRE_PADDLE_SECRETS": "live:s1",
    "PLANWIRE_DEV": "1",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_process_serves_and_leaves_when_told(tmp_path: Path, number: signal.Signals) -> None:
    with start(ENVIRON, data_dir=tmp_path) as process:
        assert process.stderr is not None
        line = await asyncio.to_thread(process.stderr.readline)
        url = line.split()[2]
        result = await asyncio.to_thread(run_action, url, "upgrade", "acme")
        process.send_signal(number)
        rest = await asyncio.to_thread(process.stderr.read)

    assert line.endswith("-> http://127.0.0.1:8000/webhooks/paddle\n")
    assert (process.returncode, rest) == (0, "")
    assert result.subscription_id in (tmp_path / "simulator.json").read_text()


def test_the_process_leaves_with_the_one_it_watches(tmp_path: Path) -> None:
    parent = subprocess.Popen(["sleep", "600"])
    with parent, start(ENVIRON | {"PLANWIRE_WATCH_PID": str(parent.pid)}, data_dir=tmp_path) as process:
        assert process.stderr is not None
        process.stderr.readline()
        parent.kill()
        parent.wait()
        process.wait(10)

    assert process.returncode == 0


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"PLANWIRE_PADDLE_SECRETS": ""}, "PLANWIRE_PADDLE_SECRETS"),
        ({"PLANWIRE_SIMULATOR_URL": "http://0.0.0.0:0"}, "loopback"),
        ({"PLANWIRE_CATALOG": "/nowhere.toml"}, "/nowhere.toml"),
        ({"PLANWIRE_PADDLE_SECRET": "live:s1"}, "PLANWIRE_PADDLE_SECRETS"),
        ({"PLANWIRE_DEV": ""}, "PLANWIRE_CATALOG"),
        ({"PLANWIRE_DATA_DIR": "/dev/null"}, "/dev/null"),
    ],
)
def test_what_stops_it_from_starting_is_one_line(tmp_path: Path, environ: dict[str, str], word: str) -> None:
    with start(ENVIRON | {"PLANWIRE_DATA_DIR": str(tmp_path)} | environ, data_dir=tmp_path) as process:
        assert process.stderr is not None
        text = process.stderr.read()

    assert process.returncode == 2
    assert text.startswith("planwire simulator: ")
    assert word in text
    assert text.count("\n") == 1


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with closing(listening()) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with start(ENVIRON | {"PLANWIRE_SIMULATOR_URL": url}, data_dir=tmp_path) as process:
            assert process.stderr is not None
            text = process.stderr.read()

    assert process.returncode == 2
    assert "cannot listen" in text
    assert text.count("\n") == 1


def test_every_way_in_is_covered_here() -> None:
    """The SDK's calls that the simulator answers, so that a new one is added with its test."""
    answered: Sequence[str] = ("get", "list", "update", "preview_update", "cancel", "pause", "resume", "activate")
    source = Path(__file__).read_text()

    assert all(f"client.subscriptions.{name}(" in source for name in answered)


async def test_a_bundled_scenario_is_played_to_where_webhooks_go(simulator: Simulator) -> None:
    async with httpx2.AsyncClient(base_url=simulator.url, timeout=60) as http:
        answer = await http.post("/simulate/scenarios/duplicate", json={"seed": 3})
        again = await http.post("/simulate/scenarios/none_such", json={})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["report"][0] == "Duplicated deliveries (seed 3): ok"
    assert told["ok"] is True
    assert len(simulator.receiver.bodies) > len({event["event_id"] for event in simulator.receiver.events}) > 10
    assert simulator.provider.world.events == ()
    assert (again.status_code, again.json()["code"]) == (404, "no_scenario")
