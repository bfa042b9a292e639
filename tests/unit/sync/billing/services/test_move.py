"""Moves of subscriptions on a store in memory: killed at every command, in every order, and by operators."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import orjson
import pytest
from hypothesis import given, settings, strategies as st

from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.facts.instructions import ScheduledPlanChange
from sync.billing.domain.outcome import ChangeRejected
from sync.billing.domain.tenant_resolution import SubscriptionRef
from sync.billing.providers.paddle.webhooks import PaddleWebhooks
from sync.billing.services.move import MOVED_TYPE
from sync.billing.services.reproject import Refresh
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.links import flip, read_stored
from sync.billing.storage.tenants import facts_of
from sync.core import instants
from sync.store.coalescer import Coalescer
from sync.store.command_pipeline import RoundTrips
from sync.store.delayed_queue import Due
from sync.store.models import StoreError
from sync.store.store import Store
from tests.support import bodies
from tests.support.histories import CATALOG, CATALOG_TEXT, at
from tests.support.memory_store import Clock, memory_store

LEASE_S = 30
SUBJECT = SubscriptionRef("live", "paddle", "sub_1")
ADAPTER = PaddleWebhooks()


def body(day: int, tenant: str | None, price: str = "pri_pro", **fields: Any) -> bytes:
    """A subscription event of a day; the same day and tenant give the same event."""
    kind = fields.pop("kind", "subscription.updated")
    when = instants.text(at(day))
    data = bodies.subscription(
        **{"tenant": tenant, "items": [(price, day + 1)], "updated_at": when, "customer_id": "ctm_1", **fields}
    )
    about = {"event_type": kind, "occurred_at": when, "event_id": f"evt_{day}_{tenant}_{data['id']}"}
    return json.dumps(bodies.envelope(data, **about)).encode()


def checkout(day: int, tenant: str, subscription_id: str = "sub_1") -> bytes:
    """A completed transaction that names a tenant."""
    data = {"id": "txn_1", "subscription_id": subscription_id, "customer_id": "ctm_1"}
    about = {"occurred_at": instants.text(at(day)), "event_id": f"evt_txn_{day}_{tenant}"}
    made = bodies.envelope({**data, "custom_data": {"tenant_id": tenant}}, event_type="transaction.completed", **about)
    return json.dumps(made).encode()


@pytest.fixture
def catalog(tmp_path: Path) -> CatalogWatcher:
    path = tmp_path / "catalog.toml"
    path.write_text(CATALOG_TEXT)
    return CatalogWatcher(path)


def services_of(store: Store, catalog: CatalogWatcher) -> BillingServices:
    return BillingServices(store, catalog, {"paddle": ADAPTER})


async def receive(services: BillingServices, *events: bytes) -> None:
    for event in events:
        await services.ingest.receive(ADAPTER, event, "live")


async def shown(store: Store, tenants: Sequence[str] = ("a", "b", "c")) -> dict[str, Any]:
    """What the tenants with subscriptions show, and what they know of these; any other tenant must be free."""
    found = {}
    for tenant in tenants:
        snapshot = await store.read(f"tenant:{tenant}")
        facts = facts_of(snapshot)
        if facts.subscriptions:
            entries = {key: (entry.order, entry.settled, entry.past_due) for key, entry in facts.subscriptions.items()}
            found[tenant] = (orjson.loads(snapshot.state), entries)
        elif snapshot.version and not snapshot.erased:
            assert orjson.loads(snapshot.state)["plan"]["key"] == "free"
    return found


async def moves(store: Store, tenant: str) -> list[str]:
    entries: Any = await store.redis.xrange(store.keys.events(f"tenant:{tenant}"))
    return [fields[b"reason"].decode() for _, fields in entries if fields[b"type"].decode() == MOVED_TYPE]


async def schedule(services: BillingServices, tenant: str, key: str) -> None:
    """Schedule a change to Basic for a tenant's subscription."""
    change = ScheduledPlanChange(key, "basic", at(60), ())
    refresh = Refresh({"source": "app"}, change=partial(replace, scheduled_changes=(change,)))
    await services.reprojection.refresh("live", f"tenant:{tenant}", refresh)


async def drained(services: BillingServices, clock: Clock) -> None:
    """Process what is pending, as the workers would once its leases have expired."""
    inbox = services.environment("live").inbox
    for _ in range(5):
        clock.advance(LEASE_S + 1)
        for due in await inbox.claim(10):
            if (record := await inbox.begin(due)) is not None:
                await services.ingest.resume(record, "live")
    assert (await inbox.counts())[0] == 0


@contextmanager
def killed_after(commands: int) -> Iterator[list[int]]:
    """Run only so many commands of the store; from then on the process is dead. Yields the number of all that ran."""
    ran = [0]
    submit = Coalescer.submit

    async def counting(self: RoundTrips, asked: list[Any]) -> list[Any]:
        left = commands - ran[0]
        ran[0] += min(len(asked), left)
        if len(asked) <= left:
            return await submit(self, asked)
        if left > 0:
            await submit(self, asked[:left])
        raise StoreError("killed")

    with mock.patch.object(Coalescer, "submit", counting):
        yield ran


HISTORY = (
    body(1, "a"),
    body(2, "b", "pri_basic", id="sub_b"),
    body(3, "b"),
    body(4, "b", status="past_due"),
)


async def test_a_move_that_is_killed_at_any_command_is_completed_by_the_next_worker(catalog: CatalogWatcher) -> None:
    """The last commands are the ends; both histories have one entry each."""
    with memory_store() as store:
        await receive(services_of(store, catalog), *HISTORY)
        expected = await shown(store)
    assert set(expected) == {"b"}
    for commands in itertools.count():
        clock = Clock()
        with memory_store(clock) as store:
            await receive(services_of(store, catalog), *HISTORY[:2])
            with killed_after(commands) as ran:
                died = False
                try:
                    await receive(services_of(store, catalog), HISTORY[2])
                except StoreError:
                    died = True
            next_process = services_of(store, catalog)
            await drained(next_process, clock)
            # The provider sends again what was not answered, and then what follows.
            await receive(next_process, *HISTORY[2:])
            await drained(next_process, clock)
            assert await shown(store) == expected, commands
            assert await moves(store, "a") == ["sub_1 moved to tenant:b"], commands
            assert await moves(store, "b") == ["sub_1 moved here from tenant:a"], commands
            redis: Any = store.redis
            names = await redis.hgetall(store.keys.names("live", SUBJECT.link_subject))
            assert not [name for name in names if name.startswith(b"left:")], commands
        if not died:
            assert ran[0] == commands or commands > 15
            break
    assert commands > 15, "a move takes more commands than that"


def customer(day: int, tenant: str) -> bytes:
    """An event of the customer, whose custom data name a tenant."""
    data = {"id": "ctm_1", "custom_data": {"tenant_id": tenant}}
    about = {"occurred_at": instants.text(at(day)), "event_id": f"evt_customer_{day}"}
    return json.dumps(bodies.envelope(data, event_type="customer.updated", **about)).encode()


@pytest.mark.parametrize("is_guessed", [True, False])
async def test_a_customer_s_name_that_is_killed_at_any_command_moves_and_releases_all_the_same(
    catalog: CatalogWatcher, is_guessed: bool
) -> None:
    """Two subscriptions without a name: guessed to be the tenant's of a third one, or parked."""
    unnamed = body(2, None, id="sub_2"), body(3, None, id="sub_3")
    for commands in itertools.count():
        clock = Clock()
        with memory_store(clock) as store:
            await receive(services_of(store, catalog), *((body(1, "a"),) if is_guessed else ()), *unnamed)
            died = False
            with killed_after(commands):
                try:
                    await receive(services_of(store, catalog), customer(4, "b"))
                except StoreError:
                    died = True
            next_process = services_of(store, catalog)
            await drained(next_process, clock)
            await receive(next_process, customer(4, "b"))
            await drained(next_process, clock)
            found = await shown(store)
            assert sorted(found["b"][1]) == ["paddle:sub_2", "paddle:sub_3"], commands
            assert list(found) == (["a", "b"] if is_guessed else ["b"]), commands
            assert await next_process.environment("live").inbox.counts() == (0, 0), commands
        if not died:
            break
    assert commands > 15


async def test_an_operator_s_move_that_is_killed_is_completed_by_the_timers(catalog: CatalogWatcher) -> None:
    """No event comes after it, and nobody asks again."""
    for commands in itertools.count():
        clock = Clock()
        with memory_store(clock) as store:
            await receive(services_of(store, catalog), HISTORY[0])
            died = False
            with killed_after(commands):
                try:
                    await services_of(store, catalog).operator_links.link(SUBJECT, "c", "support", {"by": "eve"})
                except StoreError:
                    died = True
            clock.advance(LEASE_S + 1)
            services = services_of(store, catalog)
            for due in await services.environment("live").timers.claim(10):
                await services.wakeup.fire("live", Due(due.topic, due.lease, due.token))
            found = await shown(store)
            redis: Any = store.redis
            link = await redis.get(store.keys.link("live", SUBJECT.link_subject))
            assert len(found) == 1, commands
            assert list(found) == [link.decode()], commands
        if not died:
            break
    assert link == b"c"
    assert commands > 15


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("held_up", [1, 2])
async def test_a_worker_that_was_held_up_revives_nothing(
    catalog: CatalogWatcher, late: int, is_known: bool, held_up: int
) -> None:
    """It has read the link, and commits when the subscription has moved on; at a known tenant and at a new one.

    Its first or its second commit is late: those of a move come before that of the event.
    """
    history = [body(1, "a"), body(2, "a" if is_known else "b", "pri_basic"), body(3, "b"), body(4, "c")]
    with memory_store() as store:
        slow, fast = services_of(store, catalog), services_of(store, catalog)
        await receive(fast, *history[:late])
        commit, calls = slow.committer.commit, itertools.count(1)

        async def overtaken(*arguments: Any) -> Any:
            if next(calls) == held_up:
                await receive(fast, *history[late + 1 :])
            return await commit(*arguments)

        with mock.patch.object(slow.committer, "commit", overtaken):
            await receive(slow, history[late])
        if next(calls) <= held_up:
            await receive(fast, *history[late + 1 :])
        found = await shown(store)
        assert list(found) == ["c"]
        assert found["c"][0]["limits"]["seats"] == 5


async def test_what_a_slow_worker_commits_between_giving_and_taking_moves_too(catalog: CatalogWatcher) -> None:
    with memory_store() as store:
        slow, mover = services_of(store, catalog), services_of(store, catalog)
        await receive(mover, body(1, "a"))
        commit_event, commit_move = slow.committer.commit, mover.committer.commit
        resolved, may_commit, calls = asyncio.Event(), asyncio.Event(), itertools.count(1)

        async def waiting(*arguments: Any) -> Any:
            resolved.set()
            await may_commit.wait()
            return await commit_event(*arguments)

        async def after_giving(*arguments: Any) -> Any:
            if next(calls) == 2:
                may_commit.set()
                await late
            return await commit_move(*arguments)

        with (
            mock.patch.object(slow.committer, "commit", waiting),
            mock.patch.object(mover.committer, "commit", after_giving),
        ):
            late = asyncio.ensure_future(receive(slow, body(5, None, "pri_basic")))
            await resolved.wait()
            await receive(mover, body(3, "b"))
        found = await shown(store)
        assert list(found) == ["b"]
        assert found["b"][0]["plan"]["key"] == "basic"


async def test_the_oldest_checkout_made_the_subscription(catalog: CatalogWatcher) -> None:
    """A later transaction is a renewal or an upgrade."""
    with memory_store() as store:
        services = services_of(store, catalog)
        await receive(services, checkout(3, "b"), body(2, None), checkout(1, "a"), checkout(4, "c"))
        assert list(await shown(store)) == ["a"]


EVENTS = st.lists(
    st.one_of(
        st.builds(
            lambda day, tenant, price, status: body(day, tenant, price, status=status),
            st.integers(1, 6),
            st.sampled_from(["a", "b", "c", None]),
            st.sampled_from(["pri_pro", "pri_basic"]),
            st.sampled_from(["active", "active", "past_due", "paused"]),
        ),
        st.builds(checkout, st.integers(1, 6), st.sampled_from(["a", "b", "c"])),
    ),
    min_size=2,
    max_size=6,
    unique_by=lambda event: json.loads(event)["occurred_at"] + json.loads(event)["event_type"],
)


@settings(deadline=None)
@given(EVENTS, st.booleans(), st.data())
async def test_every_order_of_a_history_with_moves_ends_the_same(
    events: list[bytes], ends: bool, data: st.DataObject
) -> None:
    """Names by metadata and checkouts, bodies without a name, an end that names a stranger; with duplicates."""
    catalog = cast(CatalogWatcher, SimpleNamespace(current=CATALOG))
    events = sorted(events, key=lambda event: str(json.loads(event)["occurred_at"]))
    if ends:
        events.append(body(9, "stranger", status="canceled"))
    mixed = data.draw(st.permutations(events)) + data.draw(st.lists(st.sampled_from(events), max_size=2))
    results = []
    for order in (events, mixed):
        clock = Clock()
        with memory_store(clock) as store:
            services = services_of(store, catalog)
            await receive(services, *order)
            await drained(services, clock)
            _, parked = await services.environment("live").inbox.counts()
            results.append((await shown(store, ("a", "b", "c", "stranger")), parked))
    named = any((json.loads(event)["data"]["custom_data"] or {}).get("tenant_id") for event in events)
    assert results[0] == results[1]
    assert not named or results[0][1] == 0


async def test_an_operator_s_link_holds_until_the_metadata_that_it_overruled_changes(catalog: CatalogWatcher) -> None:
    with memory_store() as store:
        services = services_of(store, catalog)
        await receive(services, body(1, "a"))
        linked = await services.operator_links.link(SUBJECT, "b", "support", {"by": "eve"})
        assert (linked.was, linked.overruled, linked.result.outcome) == ("a", "a", "applied")
        await receive(services, body(2, "a"), checkout(3, "c"))
        assert list(await shown(store)) == ["b"]
        await receive(services, body(4, "c"))
        assert list(await shown(store)) == ["c"]
        again = await services.operator_links.link(SUBJECT, "c", "pinned", {})
        assert (again.was, again.overruled, again.result.outcome) == ("c", "c", "unchanged")


async def test_an_operator_s_link_releases_what_waits_for_it(catalog: CatalogWatcher) -> None:
    with memory_store() as store:
        services = services_of(store, catalog)
        await receive(services, body(1, None))
        assert await services.environment("live").inbox.counts() == (0, 1)
        linked = await services.operator_links.link(SUBJECT, "b", "support", {})
        assert (linked.was, linked.overruled, linked.result.outcome) == (None, "", "applied")
        assert list(await shown(store)) == ["b"]
        assert await services.environment("live").inbox.counts() == (0, 0)


@pytest.mark.parametrize(
    ("named", "home"),
    [
        # The metadata of each day, and the tenant in the end. The link is of day 40 and a half.
        ({40: "a"}, "b"),
        ({41: "a"}, "b"),
        ({39: "a", 40: "c"}, "b"),
        ({39: "a", 41: "a"}, "b"),
        ({39: "a", 41: "c"}, "c"),
        ({41: "a", 42: "c"}, "c"),
        ({41: None, 42: "c"}, "c"),
        ({39: "a", 40: None}, "b"),
        ({39: None, 40: "a"}, "b"),
        ({39: None, 41: "a"}, "a"),
    ],
)
async def test_a_link_from_before_any_event_overrules_what_the_metadata_named_then(
    named: dict[int, str | None], home: str, catalog: CatalogWatcher
) -> None:
    """Whatever the order of arrival: the newest body from before the link, else the oldest after it."""
    for order in itertools.permutations(named):
        clock = Clock()
        clock.set(at(40.5) // 1000)
        with memory_store(clock) as store:
            services = services_of(store, catalog)
            services.now_ns = lambda: at(43)
            await services.operator_links.link(SUBJECT, "b", "support", {})
            await receive(services, *(body(day, named[day]) for day in order))
            assert list(await shown(store)) == [home], order


async def test_nothing_moves_to_an_erased_tenant_and_from_one_only_by_an_operator_s_word(
    catalog: CatalogWatcher,
) -> None:
    with memory_store() as store:
        services = services_of(store, catalog)
        await receive(services, body(1, "a"), body(1, "b", id="sub_2"))
        await services.erasure.erase("live", "tenant:b", "asked for", {})
        await receive(services, body(2, "b"))
        assert list(await shown(store)) == ["a"]
        with pytest.raises(ChangeRejected, match="erased"):
            await services.operator_links.link(SUBJECT, "b", "support", {})
        await services.operator_links.link(SubscriptionRef("live", "paddle", "sub_2"), "c", "support", {})
        assert list(await shown(store)) == ["a"]
        await receive(services, body(4, "b", id="sub_2"))
        assert list(await shown(store)) == ["a", "c"], "whatever its metadata names"
        await receive(services, body(3, "b", status="canceled"))
        (state, _) = (await shown(store))["a"]
        assert state["status"] == "canceled"


async def test_links_of_older_builds_are_read_and_what_they_left_with_two_tenants_is_repaired(
    catalog: CatalogWatcher,
) -> None:
    """They stored the first name alone, no guesses, and left what they guessed where it was."""
    with memory_store() as store:
        services = services_of(store, catalog)
        await receive(services, body(1, "a"), body(1, "a", id="sub_2"))
        keys, subject = store.keys, SubscriptionRef("live", "paddle", "sub_2")
        for known in (SUBJECT, subject):
            await store.redis.delete(keys.names("live", known.link_subject))
        await receive(services, body(2, "b"), checkout(1, "c", "sub_2"))
        assert {tenant: list(entries) for tenant, (_, entries) in (await shown(store)).items()} == {
            "a": ["paddle:sub_2"],
            "b": ["paddle:sub_1"],
        }, "metadata moves it, and a checkout does not"
        await store.redis.delete(keys.names("live", subject.link_subject))
        await store.redis.set(keys.link("live", subject.link_subject), "b")
        facts = facts_of(await store.read("tenant:a"))
        assert await services.moves.check("tenant:a", facts.subscriptions.values(), {"source": "audit"})
        assert {tenant: sorted(entries) for tenant, (_, entries) in (await shown(store)).items()} == {
            "b": ["paddle:sub_1", "paddle:sub_2"]
        }


async def test_a_customer_s_tenants_of_older_builds_count(catalog: CatalogWatcher) -> None:
    with memory_store() as store:
        services = services_of(store, catalog)
        await store.redis.sadd(store.keys.link("live", "customer:paddle:ctm_1"), "a")
        await receive(services, body(1, None))
        assert list(await shown(store)) == ["a"]


async def test_a_scheduled_change_that_the_new_tenant_has_no_room_for_is_reported_in_both_histories(
    catalog: CatalogWatcher,
) -> None:
    with memory_store() as store:
        services = services_of(store, catalog)
        await receive(services, body(1, "a"), body(1, "b", id="sub_2"))
        await schedule(services, "a", SUBJECT.key)
        await schedule(services, "b", "paddle:sub_2")
        await receive(services, body(2, "b"))
        dropped = "; its scheduled change to basic is dropped: tenant:b has one of paddle:sub_2"
        assert await moves(store, "a") == [f"sub_1 moved to tenant:b{dropped}"]
        assert await moves(store, "b") == [f"sub_1 moved here from tenant:a{dropped}"]


async def test_two_moves_that_end_together_are_each_told_by_their_own_tenant(catalog: CatalogWatcher) -> None:
    """The scheduled change was the first tenant's."""
    with memory_store() as store:
        services = services_of(store, catalog)
        await receive(services, body(1, "a"), body(1, "b", id="sub_3"), body(1, "c", id="sub_2"))
        await schedule(services, "a", SUBJECT.key)
        await schedule(services, "c", "paddle:sub_2")
        assert await flip(store, SUBJECT, await read_stored(store, SUBJECT), "b")
        await receive(services, body(2, "c"))
        dropped = "; its scheduled change to basic is dropped: tenant:c has one of paddle:sub_2"
        assert await moves(store, "a") == [f"sub_1 moved to tenant:c{dropped}"]
        assert await moves(store, "b") == ["sub_1 moved to tenant:c"]
        assert set(await moves(store, "c")) == {
            f"sub_1 moved here from tenant:a{dropped}",
            "sub_1 moved here from tenant:b",
        }


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
async def test_an_event_from_the_future_names_as_of_its_receipt(
    order: tuple[int, ...], catalog: CatalogWatcher
) -> None:
    """Two of a test clock have the order of their own times. A real one that comes later is newer."""
    ahead = [body(10, "a"), body(11, "b")]
    with memory_store() as store:
        services = BillingServices(store, catalog, {"paddle": ADAPTER}, now_ns=lambda: at(1))
        await receive(services, *(ahead[index] for index in order))
        assert list(await shown(store)) == ["b"]
        services.now_ns = lambda: at(2)
        await receive(services, body(2, "c"))
        assert list(await shown(store)) == ["c"]


async def test_two_processes_that_move_it_to_and_fro_end_at_the_newest_name(catalog: CatalogWatcher) -> None:
    with memory_store() as store:
        one, other = services_of(store, catalog), services_of(store, catalog)
        await receive(one, body(1, "a"))
        days = list(range(2, 14))
        await asyncio.gather(*(receive((one, other)[day % 2], body(day, "abc"[day % 3], "pri_basic")) for day in days))
        assert list(await shown(store)) == ["abc"[days[-1] % 3]]


async def test_a_tenant_whose_facts_cannot_be_read_holds_the_move_up(catalog: CatalogWatcher) -> None:
    """Nobody loses anything: the event is parked, and moves it when it is retried."""
    with memory_store() as store:
        services, redis = services_of(store, catalog), cast(Any, store.redis)
        await receive(services, body(1, "a"), body(1, "b", id="sub_2"))
        snap = store.keys.snap("tenant:b")
        private = await redis.hget(snap, "private")
        await redis.hset(snap, "private", b"{}")
        await receive(services, body(2, "b"))
        (parked,) = await services.environment("live").inbox.parked(None, 10)
        assert "not a tenant's facts" in parked.reason
        assert facts_of(await store.read("tenant:a")).subscriptions
        await redis.hset(snap, "private", private)
        await services.ingest.retry("live", parked.event_id)
        assert list(await shown(store)) == ["b"]
