"""A checkout that a page names: read at intervals until it is complete, once after that, and for its tenant only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sync.billing.domain.facts.model import NamePlace
from sync.billing.providers.base import Checkout, ProviderRejected, ProviderUnavailable
from sync.billing.providers.paddle.webhooks import checkout_of
from sync.billing.services.context import CHECKOUT_PAUSE_S
from sync.billing.services.events.checkouts import RETRIED_WITHIN_S, STORM_READS
from sync.core import instants
from sync.store.checkout_reads import REMEMBERED_S, CheckoutRead
from tests.support.bodies import subscription
from tests.support.paddle import price_id
from tests.support.services import TOPIC, Billing, PaddleApi


class Provider(PaddleApi):
    """A provider's API: its transactions and its subscription, and its customer's metadata.

    `shows`: whether a transaction shows its subscription.
    """

    checkout_prefix = "txn_"

    def __init__(self, services: Billing) -> None:
        super().__init__(services)
        now = instants.text(services.now_ns())
        self.body = subscription(items=[(price_id("pro"), 1)], updated_at=now)
        self.transaction: dict[str, Any] = {
            "id": "txn_1",
            "status": "completed",
            "updated_at": now,
            "subscription_id": "sub_1",
        }
        self.transaction |= {"custom_data": {"tenant_id": "acme"}, "customer_id": "ctm_1"}
        self.customer: dict[str, Any] = {}
        self.shows = False
        self.background: list[bool] = []

    async def checkout(self, checkout_id: str, max_wait_s: float, *, background: bool = False) -> Checkout:
        """Return the transaction."""
        self.asked.append(checkout_id)
        self.background.append(background)
        if self.failure is not None:
            raise self.failure
        found = checkout_of(self.transaction, "live", 0)
        return replace(found, fetched=self.shown()) if self.shows else found

    async def customer_names(
        self, customer_id: str, max_wait_s: float, *, background: bool = False
    ) -> tuple[NamePlace, ...]:
        """Return the customer's metadata."""
        return (NamePlace("customer.custom_data", self.customer),)


@pytest.fixture
def provider(services: Billing) -> Provider:
    return Provider(services)


async def request(services: Billing, checkout: str = "txn_1", topic: str = TOPIC) -> None:
    await services.store.request(services.store.keys.checkouts, [f"{topic} {checkout}"])


async def work(services: Billing) -> int:
    """Handle what is due; return its number."""
    done = 0
    for queue in (services.checkouts.queue, services.checkouts.doubtful):
        for due in await queue.claim(10):
            await services.checkouts.handle(queue, due)
            done += 1
    return done


async def read(services: Billing, topic: str = TOPIC, checkout: str = "txn_1") -> str:
    """What is remembered of a checkout."""
    found: Any = await services.store.redis.get(services.store.keys.checkout_read(topic, checkout))
    return str(found.decode())


async def due_s(services: Billing) -> float:
    """When the first member of the queues is due, in seconds from now; -1 if there is none."""
    redis: Any = services.store.redis
    keys = (services.store.keys.checkouts, services.store.keys.doubtful_checkouts)
    due = [at for key in keys for _, at in await redis.zrange(key, 0, 0, withscores=True)]
    return round((min(due) - services.now_us) / 1e6, 3) if due else -1


async def test_its_subscription_is_merged_and_the_answer_is_remembered(services: Billing, provider: Provider) -> None:
    await request(services)
    assert await work(services) == 1
    assert await services.plan() == "pro"
    assert provider.asked == ["txn_1", "sub_1"]
    await request(services)
    await work(services)
    assert len(provider.asked) == 2
    services.clock.advance(REMEMBERED_S + 1)
    await request(services)
    await work(services)
    assert len(provider.asked) == 4


async def test_one_request_suffices_if_the_checkout_shows_its_subscription(
    services: Billing, provider: Provider
) -> None:
    provider.shows = True
    await request(services)
    await work(services)
    assert (await services.plan(), provider.asked) == ("pro", ["txn_1"])


@pytest.mark.parametrize("change", [{"status": "canceled"}, {"subscription_id": None}])
async def test_one_that_never_makes_a_subscription_is_read_once(
    services: Billing, provider: Provider, change: dict[str, Any]
) -> None:
    """It has expired, or it sells something else. It is no stranger's, so the next one is read as usual."""
    whole = provider.transaction
    provider.transaction = {**whole, **change}
    await request(services)
    await work(services)
    assert (await due_s(services), await read(services)) == (-1, CheckoutRead.VOID)
    services.clock.advance(CHECKOUT_PAUSE_S + 0.1)
    provider.transaction = whole
    await request(services, "txn_2")
    await work(services)
    assert (await services.plan(), provider.background) == ("pro", [False, False])


async def test_while_its_payment_has_to_be_confirmed_it_is_shown_so_and_read_again(
    services: Billing, provider: Provider
) -> None:
    provider.body["status"] = "incomplete"
    await request(services)
    await work(services)
    assert ((await services.state())["status"], await due_s(services)) == ("incomplete", CHECKOUT_PAUSE_S)
    provider.body |= {"status": "active", "updated_at": instants.text(services.now_ns() + 1_000_000_000)}
    services.clock.advance(CHECKOUT_PAUSE_S + 0.1)
    await work(services)
    assert (await services.plan(), (await services.state())["status"]) == ("pro", "active")
    assert await read(services) == CheckoutRead.APPLIED


@pytest.mark.parametrize("change", [{"status": "ready"}, {"status": "paid", "subscription_id": None}])
async def test_one_that_is_not_complete_is_read_again_less_and_less_often(
    services: Billing, provider: Provider, change: dict[str, Any]
) -> None:
    whole = provider.transaction
    provider.transaction = {**whole, **change}
    await request(services)
    pauses = []
    for _ in range(4):
        assert await work(services) == 1
        pauses.append(await due_s(services))
        services.clock.advance(pauses[-1] + 0.1)
    assert pauses == pytest.approx([2, 2, 4, 8], rel=0.2)
    provider.transaction = whole
    assert await work(services) == 1
    assert await services.plan() == "pro"


async def test_after_some_time_it_is_not_read_any_more(services: Billing, provider: Provider) -> None:
    provider.transaction["status"] = "ready"
    await request(services)
    await work(services)
    services.clock.advance(RETRIED_WITHIN_S + 1)
    assert await work(services) == 1
    assert (await due_s(services), provider.asked) == (-1, ["txn_1"])


async def test_a_tenant_s_checkouts_are_read_one_by_one_and_less_often_if_they_are_not_its(
    services: Billing, provider: Provider
) -> None:
    provider.failure = ProviderRejected("not_found", "no such transaction")
    for number in range(6):
        await request(services, f"txn_{number}")
    await request(services, "txn_9", "tenant:other")
    await work(services)
    assert provider.asked == ["txn_0", "txn_9"]
    waits: list[float] = []
    while (wait_s := await due_s(services)) > 0:
        services.clock.advance(wait_s + 0.1)
        waits.append(wait_s)
        await work(services)
    assert len(provider.asked) == len(set(provider.asked)) == 7
    assert waits == pytest.approx([2, 4, 8, 8, 8], rel=0.2)
    assert provider.background == [False, False, *[True] * 5]
    provider.failure = None
    services.clock.advance(10)
    await request(services, "txn_good")
    await work(services)
    assert await services.plan() == "pro"


async def test_a_first_purchase_does_not_wait_behind_checkouts_of_others(services: Billing, provider: Provider) -> None:
    provider.failure = ProviderRejected("not_found", "no such transaction")
    await request(services, "txn_0", "tenant:stranger")
    await work(services)
    for number in range(1, 50):
        await request(services, f"txn_{number}", "tenant:stranger")
    provider.failure = None
    services.clock.advance(10)  # the stranger's pause is over
    await request(services)
    for due in await services.checkouts.queue.claim(100):
        await services.checkouts.handle(services.checkouts.queue, due)
    assert (await services.plan(), provider.asked) == ("pro", ["txn_0", "txn_1", "sub_1"])


async def test_while_the_provider_is_away_it_waits(services: Billing, provider: Provider) -> None:
    provider.failure = ProviderUnavailable("no answer")
    await request(services)
    pauses = []
    for _ in range(4):
        await work(services)
        pauses.append(await due_s(services))
        services.clock.advance(pauses[-1] + 0.1)
    assert pauses == pytest.approx([2, 2, 4, 8], rel=0.2)
    provider.failure = None
    await work(services)
    assert await services.plan() == "pro"


@pytest.mark.parametrize(
    ("checkout", "metadata", "plan"),
    [
        ("acme", None, "pro"),
        (None, "acme", "pro"),
        ("acme", "acme", "pro"),
        (None, None, None),
        ("other", None, None),
        ("other", "acme", None),
        (None, "other", None),
    ],
)
async def test_it_or_its_subscription_must_name_the_tenant(
    services: Billing, provider: Provider, checkout: str | None, metadata: str | None, plan: str | None
) -> None:
    provider.transaction["custom_data"] = checkout and {"tenant_id": checkout}
    provider.body["custom_data"] = metadata and {"tenant_id": metadata}
    await request(services)
    await work(services)
    state = await services.state()
    assert (state and state["plan"]["key"]) == plan
    assert await services.state("tenant:other") is None
    assert provider.asked == ["txn_1"] if checkout == "other" else ["txn_1", "sub_1"]


async def test_its_customer_may_name_the_tenant(services: Billing, provider: Provider) -> None:
    provider.transaction["custom_data"] = provider.body["custom_data"] = None
    provider.customer = {"tenant_id": "acme"}
    await request(services)
    await work(services)
    assert (await services.plan(), await read(services)) == ("pro", CheckoutRead.APPLIED)


async def test_a_subscription_that_is_the_tenant_s_already_needs_no_name(services: Billing, provider: Provider) -> None:
    """Whatever names it: an operator's link, or a guess."""
    await services.receive(plan="basic")
    provider.transaction["custom_data"] = provider.body["custom_data"] = None
    provider.body["updated_at"] = instants.text(services.now_ns() + 1_000_000_000)
    await request(services, topic="tenant:other")
    await request(services)
    await work(services)
    assert (await services.plan(), await services.state("tenant:other")) == ("pro", None)
    assert await read(services, "tenant:other") == CheckoutRead.FOREIGN


async def test_one_of_an_unknown_price_is_not_applied(services: Billing, provider: Provider) -> None:
    provider.body["items"][0]["price"]["id"] = "pri_unknown"
    await request(services)
    await work(services)
    assert (await services.state(), await read(services)) == (None, CheckoutRead.VOID)


async def test_while_pages_of_many_tenants_name_checkouts_of_others_all_are_read_in_the_background(
    services: Billing, provider: Provider
) -> None:
    provider.failure = ProviderRejected("not_found", "no such transaction")
    for number in range(STORM_READS + 2):
        await request(services, f"txn_{number}", f"tenant:stranger{number}")
        await work(services)
    assert provider.background == [*[False] * STORM_READS, True, True]
    services.clock.advance(11)
    await request(services, "txn_quiet")
    await work(services)
    assert provider.background[-1] is False


async def test_the_subscription_s_own_name_is_stronger_than_its_checkout_s(
    services: Billing, provider: Provider
) -> None:
    provider.body["custom_data"] = {"tenant_id": "other"}
    await request(services)
    await work(services)
    assert (await services.state(), await services.plan("tenant:other")) == (None, "pro")


async def test_events_that_wait_for_the_checkout_s_name_are_released(services: Billing, provider: Provider) -> None:
    provider.body["custom_data"] = None
    parked = await services.ingest.receive(
        services.adapters["paddle"], services.body(None, custom_data=None, event_id="evt_1"), "live"
    )
    assert parked.outcome == "parked"
    await request(services)
    await work(services)
    record = await services.environment("live").inbox.read("evt_1")
    assert record is not None
    assert (record.status, await services.plan()) == ("done", "pro")


async def test_a_checkout_of_no_known_provider_has_the_tenant_compared(services: Billing, provider: Provider) -> None:
    await request(services, "cs_live_1")
    await work(services)
    wanted: Any = await services.store.redis.zrange(services.store.keys.reconcile, 0, -1)
    assert (wanted, provider.asked, await due_s(services)) == ([TOPIC.encode()], [], -1)
