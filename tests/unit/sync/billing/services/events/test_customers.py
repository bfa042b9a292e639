"""A customer's metadata name the tenant of its subscriptions, by the customer's own events, in any order of arrival."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from planwire_client import tenant_reference
from sync.billing.catalog import catalog
from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.outcome import Outcome
from sync.billing.domain.tenant_resolution import SubscriptionRef
from sync.billing.providers.paddle.webhooks import PaddleWebhooks
from sync.billing.providers.stripe.webhooks import StripeWebhooks
from sync.billing.providers.webhook_adapter import WebhookAdapter
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.tenants import facts_of
from sync.core import instants
from tests.support import bodies, stripe_bodies
from tests.support.histories import CATALOG_TEXT, at
from tests.support.memory_store import memory_store

SECRET = "a-secret-of-tenants-for-tests-0123456789"
CATALOG = catalog.parse(CATALOG_TEXT.replace('= ["pri_basic"]', '= ["pri_basic"]\nprices.stripe.live = ["pri_basic"]'))
ITEMS = [("pri_basic", 1)]
Make = Callable[..., bytes]


def paddle(kind: str, day: int, tenant: str | None = None, **fields: Any) -> bytes:
    """An event of a day: of a subscription, of its transaction, or of its customer."""
    when, name = instants.text(at(day)), fields.pop("name", "sub_1")
    custom_data = None if tenant is None else {"tenant_id": tenant}
    type, data = {
        "subscription": ("subscription.updated", bodies.subscription(id=name, updated_at=when, items=ITEMS)),
        "checkout": ("transaction.completed", {"id": f"txn_{name}", "subscription_id": name, "customer_id": "ctm_1"}),
        "customer": ("customer.updated", {"id": "ctm_1", "email": "jane@example.com", "updated_at": when}),
    }[kind]
    about = {"event_type": type, "occurred_at": when, "event_id": f"evt_{kind}_{day}_{name}_{tenant}"[:90]}
    return json.dumps(bodies.envelope({**data, "custom_data": custom_data, **fields}, **about)).encode()


def stripe(kind: str, day: int, tenant: str | None = None, **fields: Any) -> bytes:
    """The same of Stripe."""
    name = fields.pop("name", "sub_1")
    metadata = {} if tenant is None else {"tenant_id": tenant}
    type, data = {
        "subscription": ("customer.subscription.updated", stripe_bodies.body(id=name)),
        "checkout": ("checkout.session.completed", {"id": f"cs_{name}", "subscription": name, "customer": "cus_1"}),
        "customer": ("customer.created", {"id": "cus_1", "object": "customer", "email": "jane@example.com"}),
    }[kind]
    if kind == "subscription":
        data["items"]["data"][0]["price"] = {"id": "pri_basic"}
    about = {"created": at(day) // 10**9, "id": f"evt_{kind}_{day}_{name}_{tenant}"[:90]}
    return stripe_bodies.envelope({**data, "metadata": metadata, **fields}, type, **about)


class Shop:
    """The services on a store in memory, open to one provider, and what they show."""

    def __init__(self, services: BillingServices, provider: str) -> None:
        self._services = services
        self._adapter = services.adapters[provider]

    async def take(self, *events: bytes) -> list[Outcome]:
        return [(await self._services.ingest.receive(self._adapter, event, "live")).outcome for event in events]

    async def homes(self) -> dict[str, list[str]]:
        """The ids of the subscriptions of the tenants that have one."""
        found = {}
        for tenant in ("a", "b", "c"):
            facts = facts_of(await self._services.store.read(f"tenant:{tenant}"))
            if facts.subscriptions:
                found[tenant] = sorted(entry.subscription.id for entry in facts.subscriptions.values())
        return found

    async def is_vouched(self, tenant: str) -> bool:
        facts = facts_of(await self._services.store.read(f"tenant:{tenant}"))
        return all(entry.is_vouched for entry in facts.subscriptions.values())

    async def parked(self) -> list[str]:
        """The reasons of the parked events."""
        return [record.reason for record in await self._services.environment("live").inbox.parked(None, 100)]

    async def link(self, subscription_id: str, tenant: str) -> None:
        ref = SubscriptionRef("live", self._adapter.name, subscription_id)
        await self._services.operator_links.link(ref, tenant, "support", {})

    async def erase(self, tenant: str) -> None:
        await self._services.erasure.erase("live", f"tenant:{tenant}", "asked for", {})

    async def keys(self) -> str:
        """Every key of customers, with what it holds."""
        redis: Any = self._services.store.redis
        return str([(key, await redis.type(key)) for key in await redis.keys("*customer:*")])


@contextmanager
def open_shop(make: Make) -> Iterator[Shop]:
    watcher = cast(CatalogWatcher, SimpleNamespace(current=CATALOG))
    adapters: dict[str, WebhookAdapter] = {"paddle": PaddleWebhooks(), "stripe": StripeWebhooks()}
    with memory_store() as store:
        services = BillingServices(store, watcher, adapters, tenant_secrets=[SECRET.encode()])
        yield Shop(services, make.__name__)


both = pytest.mark.parametrize("make", [paddle, stripe])


@both
async def test_a_customer_s_event_names_its_subscriptions_and_releases_what_waits(make: Make) -> None:
    with open_shop(make) as shop:
        history = make("subscription", 1), make("subscription", 2, name="sub_2"), make("customer", 3)
        assert await shop.take(*history) == ["parked", "parked", "ignored"]
        assert await shop.take(make("customer", 4, "a")) == ["unchanged"]
        assert (await shop.homes(), await shop.parked()) == ({"a": ["sub_1", "sub_2"]}, [])
        # What comes later is known at once.
        assert await shop.take(make("subscription", 5, name="sub_3")) == ["applied"]
        assert await shop.homes() == {"a": ["sub_1", "sub_2", "sub_3"]}


@both
async def test_every_order_of_names_ends_alike(make: Make) -> None:
    """The metadata of subscriptions, then checkouts, then the newest of the customer."""
    history = [
        make("customer", 1, "c"),
        make("customer", 3, "b"),
        make("subscription", 2, name="sub_1"),
        make("checkout", 4, "a", name="sub_2"),
        make("subscription", 5, name="sub_2"),
        make("subscription", 6, "c", name="sub_3"),
    ]
    for order in itertools.islice(itertools.permutations(history), None, None, 19):
        with open_shop(make) as shop:
            await shop.take(*order)
            assert await shop.homes() == {"a": ["sub_2"], "b": ["sub_1"], "c": ["sub_3"]}
            assert await shop.parked() == []


@both
async def test_the_name_of_a_customer_is_stronger_than_that_of_an_end(make: Make) -> None:
    history = make("customer", 1, "a"), make("subscription", 2), make("subscription", 3, "b", status="canceled")
    for order in itertools.permutations(history):
        with open_shop(make) as shop:
            await shop.take(*order)
            assert await shop.homes() == {"a": ["sub_1"]}


@both
async def test_a_guess_gives_way_to_the_name_of_its_customer(make: Make) -> None:
    with open_shop(make) as shop:
        await shop.take(make("subscription", 1, "a"), make("subscription", 2, name="sub_2"))
        assert await shop.homes() == {"a": ["sub_1", "sub_2"]}
        assert await shop.take(make("customer", 3, "b")) == ["applied"]
        assert await shop.homes() == {"a": ["sub_1"], "b": ["sub_2"]}


@both
async def test_an_ambiguous_guess_is_decided_by_the_name_of_its_customer(make: Make) -> None:
    with open_shop(make) as shop:
        await shop.take(make("subscription", 1, "a"), make("subscription", 2, "b", name="sub_2"))
        assert await shop.take(make("subscription", 3, name="sub_3")) == ["parked"]
        # Another subscription of the customer decides nothing.
        await shop.take(make("subscription", 4, "b", name="sub_4"))
        assert len(await shop.parked()) == 1
        await shop.take(make("customer", 5, "a"))
        assert (await shop.homes(), await shop.parked()) == ({"a": ["sub_1", "sub_3"], "b": ["sub_2", "sub_4"]}, [])


@both
async def test_a_subscription_that_an_operator_has_linked_counts_for_guesses(make: Make) -> None:
    """No event names it. A stranger who pays with the customer's e-mail address for another tenant gets nothing."""
    with open_shop(make) as shop:
        await shop.take(make("subscription", 1))
        await shop.link("sub_1", "a")
        await shop.take(make("subscription", 2, "c", name="sub_2"), make("subscription", 3, name="sub_3"))
        assert await shop.homes() == {"a": ["sub_1"], "c": ["sub_2"]}
        assert ["its customer" in reason for reason in await shop.parked()] == [True]


@both
async def test_a_signed_reference_of_the_customer_vouches_and_moves_nothing_that_is_named_itself(make: Make) -> None:
    with open_shop(make) as shop:
        await shop.take(make("subscription", 1, "a"), make("subscription", 2, name="sub_2"))
        await shop.take(make("customer", 3, tenant_reference(SECRET, "b")), make("customer", 4, "c"))
        assert await shop.homes() == {"a": ["sub_1"], "b": ["sub_2"]}
        assert (await shop.is_vouched("a"), await shop.is_vouched("b")) == (False, True)
        forged = tenant_reference("x" * 32, "c")
        assert await shop.take(make("customer", 5, forged), make("customer", 6, "undefined")) == ["ignored"] * 2
        assert await shop.homes() == {"a": ["sub_1"], "b": ["sub_2"]}


@both
async def test_an_erased_tenant_is_no_name_of_its_customer_any_more(make: Make) -> None:
    with open_shop(make) as shop:
        await shop.take(make("customer", 1, "a"), make("subscription", 2))
        assert await shop.homes() == {"a": ["sub_1"]}
        await shop.erase("a")
        assert ":metadata" not in await shop.keys()
        await shop.take(make("customer", 3, "b"), make("subscription", 4))
        assert await shop.homes() == {}


CUSTOMER_A: dict[str, Any] = {"customer": {"custom_data": {"tenant_id": "a"}}}


@pytest.mark.parametrize(
    ("checkout", "wanted"),
    [
        ({"custom_data": {"tenant_id": "b"}}, "b"),
        ({"custom_data": None, "customer": {"custom_data": {"tenant_id": "b"}}}, "a"),
    ],
    ids=["its own metadata", "those of its customer"],
)
async def test_a_checkout_that_made_it_is_stronger_than_the_customer_in_its_body_by_its_own_metadata_alone(
    checkout: dict[str, Any], wanted: str
) -> None:
    """Of the names of a customer the newest counts, wherever it stands."""
    history = [
        paddle("checkout", 1, **checkout, subscription_id=None),
        paddle("subscription", 2, transaction_id="txn_sub_1", **CUSTOMER_A),
        paddle("subscription", 3, **CUSTOMER_A, status="past_due"),
    ]
    for order in itertools.permutations(history):
        with open_shop(paddle) as shop:
            await shop.take(*order)
            assert (await shop.homes(), await shop.parked()) == ({wanted: ["sub_1"]}, [])


async def test_the_customer_in_a_body_is_one_of_its_names() -> None:
    """A signed one of its own event is stronger, and so is a newer one."""
    for tenant, day in ((tenant_reference(SECRET, "c"), 1), ("c", 3)):
        history = paddle("subscription", 2, **CUSTOMER_A), paddle("customer", day, tenant)
        for order in itertools.permutations(history):
            with open_shop(paddle) as shop:
                await shop.take(*order)
                assert await shop.homes() == {"c": ["sub_1"]}


async def test_the_oldest_name_of_a_checkout_counts_whatever_comes_first() -> None:
    """Neither event of the checkout has the subscription's id."""
    history = [
        paddle("checkout", 1, "a", subscription_id=None),
        paddle("checkout", 2, "b", subscription_id=None),
        paddle("subscription", 3, transaction_id="txn_sub_1"),
    ]
    for order in itertools.permutations(history):
        with open_shop(paddle) as shop:
            await shop.take(*order)
            assert await shop.homes() == {"a": ["sub_1"]}
