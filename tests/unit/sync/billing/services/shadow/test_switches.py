"""Billing in the shadow of another entitlement system: readers see nothing of it until a tenant is switched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.services.committer import SHADOW
from sync.billing.services.shadow.queues import ShadowQueues
from sync.billing.services.shadow.switches import UNKNOWN
from sync.billing.storage.shadow import LEASE_S
from sync.billing.storage.tenants import is_shadow
from sync.core.errors import SyncError
from sync.store.models import Change, Snapshot, Verdict
from tests.support.services import TOPIC, Billing, billing

WHO = {"by": "eve"}


async def publish(services: Billing, state: object, **fields: Any) -> Verdict:
    """Publish a tenant's state, as the application does."""
    change = Change(TOPIC, orjson.dumps(state), **fields)
    return (await services.store.commit(change)).verdict


async def computed(services: Billing) -> Any:
    """The plan that billing computes, whoever sees it."""
    found = await services.reprojection.reproject("live", TOPIC, "test")
    snapshot = await services.store.read(TOPIC)
    assert found.version == snapshot.version
    return orjson.loads(snapshot.beside if is_shadow(snapshot) else snapshot.state)["plan"]["key"]


async def work(services: Billing) -> None:
    """Work on the switches as a worker does."""
    queues = ShadowQueues(services, "live", None, SyncError)
    queue = services.environment("live").shadow.switching
    for due in await queue.claim(100):
        await services.isolation.work("shadow_switches", queue, queues.switch, due)


async def test_readers_see_nothing_until_the_switch_and_nothing_after_the_switch_back(services: Billing) -> None:
    result = await services.receive(plan="pro")
    assert (result.outcome, result.reason, result.version) == ("applied", SHADOW, 0)
    assert (await services.store.read(TOPIC)).state == b"null"
    assert await services.store.log(TOPIC) == []
    assert list((await services.facts()).subscriptions) != []
    assert await computed(services) == "pro"

    switched = await services.shadow_switches.switch("live", TOPIC, WHO, on=True)
    assert (switched.outcome, await services.plan()) == ("applied", "pro")
    assert switched.version > 0
    (entry,) = await services.store.log(TOPIC, 1)
    assert orjson.loads(entry.cause) == {"source": "operator", "event_type": "shadow.switched", "by": "eve"}

    back = await services.shadow_switches.switch("live", TOPIC, WHO, on=False)
    assert back.version > switched.version
    assert await services.state() is None
    assert await computed(services) == "pro"
    assert (await services.shadow_switches.switch("live", TOPIC, WHO, on=False)).outcome == "unchanged"


async def test_facts_go_on_in_the_shadow_and_dedupe_as_they_do_elsewhere(services: Billing) -> None:
    await services.receive(plan="basic", event_id="evt_1")
    services.clock.advance(60)
    await services.receive(plan="pro", event_id="evt_2")
    assert (await services.receive(plan="pro", event_id="evt_2")).outcome == "duplicate"
    assert await computed(services) == "pro"
    await services.shadow_switches.switch("live", TOPIC, WHO, on=True)
    services.clock.advance(60)
    await services.receive(plan="basic", event_id="evt_3")
    assert await services.plan() == "basic"


async def test_what_the_application_publishes_stays_what_readers_see(services: Billing) -> None:
    assert await publish(services, {"plan": "old"}, private=b'{"secret":1}') is Verdict.APPLIED
    await services.receive(plan="pro")
    assert await services.state() == {"plan": "old"}
    assert await publish(services, {"plan": "older"}) is Verdict.APPLIED
    assert await services.state() == {"plan": "older"}
    assert await computed(services) == "pro"
    services.clock.advance(60)
    await services.receive(plan="basic")
    assert await services.state() == {"plan": "older"}
    assert await computed(services) == "basic"


async def test_a_switch_shows_billing_s_state_and_back_the_newest_published_one(services: Billing) -> None:
    await publish(services, {"plan": "old"}, private=b'{"secret":1}', order="1")
    await services.receive(plan="pro")
    await services.shadow_switches.switch("live", TOPIC, WHO, on=True)
    assert await services.plan() == "pro"
    assert not (await services.facts()).overrides
    assert await publish(services, {"plan": "new"}, private=b'{"secret":2}', order="3") is Verdict.BILLED
    assert await publish(services, {"plan": "late"}, order="2") is Verdict.BILLED
    assert await services.plan() == "pro"
    await services.shadow_switches.switch("live", TOPIC, WHO, on=False)
    snapshot = await services.store.read(TOPIC)
    assert (orjson.loads(snapshot.state), snapshot.private) == ({"plan": "new"}, b'{"secret":2}')
    assert await publish(services, {"plan": "newer"}, order="4") is Verdict.APPLIED


async def test_a_share_switches_the_same_tenants_and_grows(services: Billing) -> None:
    topics = [f"tenant:t{number}" for number in range(30)]
    for number in range(30):
        await services.receive(f"t{number}", plan="pro", id=f"sub_{number}", customer_id=f"ctm_{number}")

    async def visible(share: float) -> set[str]:
        await services.shadow_switches.switch_share("live", share, WHO, clears=False)
        await work(services)
        return {topic for topic in topics if (await services.store.read(topic)).version and await services.state(topic)}

    small, large = await visible(0.2), await visible(0.6)
    assert small < large < set(topics)
    assert await visible(0.2) == small
    assert await visible(1) == set(topics)
    assert await visible(0) == set()


async def test_by_name_goes_before_the_share_and_all_clears_the_names(services: Billing) -> None:
    await services.receive(plan="pro")
    await services.shadow_switches.switch("live", TOPIC, WHO, on=False)
    await services.shadow_switches.switch_share("live", 1, WHO, clears=False)
    await work(services)
    assert await services.state() is None
    await services.shadow_switches.switch_share("live", 1, WHO, clears=True)
    await work(services)
    assert await services.plan() == "pro"


async def test_a_tenant_that_is_new_after_the_switch_is_seen_at_once(services: Billing) -> None:
    await services.shadow_switches.switch_share("live", 1, WHO, clears=True)
    await services.receive(plan="pro")
    assert await services.plan() == "pro"


async def test_tenants_from_before_the_shadow_stay_seen(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(EXAMPLE.read_text())
    with billing(CatalogWatcher(path)) as services:
        await services.receive(plan="pro")
        services.has_shadow = True
        services.clock.advance(60)
        await services.receive(plan="basic")
        assert await services.plan() == "basic"
        await services.shadow_switches.switch_share("live", 0.0, WHO, clears=False)
        await work(services)
        assert await services.plan() == "basic"


async def test_an_erased_tenant_leaves_nothing_beside(services: Billing) -> None:
    await services.receive(plan="pro")
    await services.shadow_comparisons.answered("live", TOPIC, {"tier": "pro"}, 1, "posted")
    await services.erasure.erase("live", TOPIC, "asked for", WHO)
    snapshot = await services.store.read(TOPIC)
    assert (snapshot.state, snapshot.beside, snapshot.beside_private) == (b"null", b"", b"")
    assert await services.environment("live").shadow.record(TOPIC) is None
    assert (await services.receive(plan="pro")).outcome in ("ignored", "parked")
    await services.erasure.revive("live", TOPIC, "came back", WHO)
    assert await services.state() is None


async def test_a_tenant_that_was_new_after_the_switch_goes_back_to_what_was_published(services: Billing) -> None:
    await publish(services, {"plan": "old"}, private=b'{"secret":1}')
    await services.shadow_switches.switch_share("live", 1.0, WHO, clears=True)
    await services.receive(plan="basic")
    assert await services.plan() == "basic"
    assert not (await services.facts()).overrides
    assert await publish(services, {"plan": "newer"}, private=b'{"secret":2}') is Verdict.BILLED
    await services.shadow_switches.switch_share("live", 0.0, WHO, clears=True)
    await work(services)
    snapshot = await services.store.read(TOPIC)
    assert (orjson.loads(snapshot.state), snapshot.private) == ({"plan": "newer"}, b'{"secret":2}')
    (entry,) = await services.store.log(TOPIC, 1)
    assert orjson.loads(entry.cause) == {"source": "operator", "event_type": "shadow.switched_back", "by": "eve"}


async def test_a_switch_of_a_name_that_billing_does_not_know_says_so(services: Billing) -> None:
    result = await services.shadow_switches.switch("live", "tenant:acne", WHO, on=True)
    assert (result.outcome, result.reason) == ("unchanged", UNKNOWN)


async def test_a_worker_that_dies_midway_leaves_the_rest_to_another(services: Billing) -> None:
    topics = [f"tenant:t{number}" for number in range(10)]
    for number in range(10):
        await services.receive(f"t{number}", plan="pro", id=f"sub_{number}", customer_id=f"ctm_{number}")
    await services.shadow_switches.switch_share("live", 1.0, WHO, clears=True)
    log = services.environment("live").shadow
    claimed = await log.switching.claim(10)
    await services.shadow_switches.bring("live", claimed[0].topic)  # and dies before it ends the claim
    await work(services)
    assert sum([await services.state(topic) is not None for topic in topics]) == 1
    services.clock.advance(LEASE_S + 1)
    await work(services)
    assert None not in [await services.state(topic) for topic in topics]


async def test_a_worker_with_an_old_view_of_the_switches_is_put_right(services: Billing) -> None:
    await services.receive(plan="pro")
    log = services.environment("live").shadow
    await services.shadow_switches.switch_share("live", 1.0, WHO, clears=True)
    (claimed,) = await log.switching.claim(1)
    await services.shadow_switches.switch("live", TOPIC, WHO, on=False)  # it is still in the shadow
    await log.switch_tenant(TOPIC, services.now_us, on=True)
    await services.shadow_switches.bring("live", TOPIC)  # the worker's, decided before
    await log.switch_tenant(TOPIC, services.now_us, on=False)
    assert await services.plan() == "pro"
    await log.switching.ack(claimed)
    await work(services)
    assert await services.state() is None


async def test_an_erased_publisher_s_topic_can_be_published_again(services: Billing) -> None:
    await publish(services, {"plan": "old"})
    await services.erasure.erase("live", TOPIC, "asked for", WHO)
    assert await publish(services, {"plan": "new"}) is Verdict.APPLIED


class TestLostTail:
    """The store has lost a switch; a gateway restores the version that it holds."""

    async def test_a_lost_switch_keeps_the_facts_and_what_was_published(self, services: Billing) -> None:
        await publish(services, {"plan": "old"}, private=b'{"secret":1}')
        await services.receive(plan="pro")
        await services.shadow_switches.switch("live", TOPIC, WHO, on=True)
        switched = await services.store.read(TOPIC)
        await services.shadow_switches.switch("live", TOPIC, WHO, on=False)
        before = await services.store.read(TOPIC)
        assert await services.store.restore(later(switched, before))
        snapshot = await services.store.read(TOPIC)
        assert (snapshot.owner, snapshot.restored) == ("billing", True)
        assert (orjson.loads(snapshot.beside), snapshot.beside_private) == ({"plan": "old"}, b'{"secret":1}')
        assert list((await services.facts()).subscriptions) != []
        assert await publish(services, {"plan": "newer"}) is Verdict.BILLED

    async def test_a_lost_switch_back_leaves_the_tenant_in_the_shadow(self, services: Billing) -> None:
        await publish(services, {"plan": "old"}, private=b'{"secret":1}')
        await services.receive(plan="pro")
        published = await services.store.read(TOPIC)
        await services.shadow_switches.switch("live", TOPIC, WHO, on=True)
        assert await services.store.restore(later(published, await services.store.read(TOPIC)))
        snapshot = await services.store.read(TOPIC)
        assert is_shadow(snapshot)
        assert (orjson.loads(snapshot.state), snapshot.private) == ({"plan": "old"}, b'{"secret":1}')
        assert list((await services.facts()).subscriptions) != []
        services.clock.advance(60)
        await services.receive(plan="basic")
        assert await services.state() == {"plan": "old"}
        assert await computed(services) == "basic"


def later(held: Snapshot, stored: Snapshot) -> Snapshot:
    """What a gateway holds that is newer than what the store has."""
    return replace(held, version=stored.version + 1_000_000)
