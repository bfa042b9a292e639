"""What an edit changes for the tenants in the store: one that cannot be read hides no other."""

from __future__ import annotations

from typing import Any

from sync.billing.api.operations import Asked
from sync.billing.api.plan_versions import PlanVersions
from sync.billing.catalog import catalog
from sync.billing.catalog.difference import Difference
from sync.billing.catalog.watcher import EXAMPLE
from sync.billing.domain.entitlements.items import Setting
from sync.billing.services.background.catalog_effects import Effect, effect_of, effects
from sync.billing.storage.tenants import facts_of
from sync.store.keys import DEFAULT_KEYS as keys
from tests.support.services import Billing

TEXT = EXAMPLE.read_text()
OLD = catalog.parse(TEXT)


async def found(services: Billing, text: str) -> dict[str, Effect]:
    old, new = (Setting(each, "live", (), services.now_ns()) for each in (OLD, catalog.parse(text)))
    return {each.tenant: each async for each in effects(services.store, old, new)}


async def damage(services: Billing) -> None:
    """Topics that no reader can read: no topic, of another environment, of a wrong type, of a newer release."""
    redis: Any = services.store.redis
    wrong = ("no topic", "sandbox/tenant:x", "tenant:string", "tenant:newer")
    await redis.sadd(keys.tenants("live"), *wrong)
    await redis.set(keys.snap("tenant:string"), "a string")
    facts = b'{"format":99,"subscriptions":{}}'
    await redis.hset(keys.snap("tenant:newer"), mapping={"owner": b"billing", "private": facts, "version": b"1"})


async def test_each_tenant_is_compared_and_damaged_ones_are_named(services: Billing) -> None:
    for tenant, plan in (("acme", "pro"), ("globex", "basic")):
        await services.receive(tenant, id=f"sub_{tenant}", customer_id=f"ctm_{tenant}", plan=plan)
    await services.receive("gone", id="sub_gone", customer_id="ctm_gone")
    await services.erasure.erase("live", "tenant:gone", "asked for", {})
    await damage(services)
    before = await services.store.read("tenant:acme")
    effect = await found(services, TEXT.replace('name = "Pro"', 'name = "Professional"'))
    assert set(effect) == {"acme", "globex", "no topic", "sandbox/tenant:x", "tenant:string", "tenant:newer"}
    assert effect["acme"].difference.renames == ["name: Pro -> Professional"]
    assert not effect["globex"].difference.is_any
    assert all(effect[name].problem for name in set(effect) - {"acme", "globex"})
    assert await services.store.read("tenant:acme") == before


async def test_what_the_catalog_loses_is_named_and_stays(services: Billing) -> None:
    await services.receive()
    (pro,) = [plan for plan in OLD.plans.values() if plan.key == "pro"]
    sold = pro.prices["paddle"]["live"]
    text = TEXT
    for price in sold:
        text = text.replace(price, f"{price}x")
    effect = (await found(services, text))["acme"]
    assert effect.problem.startswith("what was published stays: unknown price")
    assert not effect.difference.is_any


async def test_versions_are_listed_page_by_page_without_those_that_cannot_be_read(services: Billing) -> None:
    await services.receive()
    await damage(services)
    page = await PlanVersions(services).versions(Asked("live"), "", 500, "0")
    assert page["versions"] == [
        {"tenant": "acme", "subscription": "paddle:sub_1", "plan": "pro", "version": "current", "by": "purchase"}
    ]
    assert "next" not in page
    assert (await PlanVersions(services).versions(Asked("live"), "basic", 500, "0"))["versions"] == []


async def test_an_application_is_compared_by_itself(services: Billing) -> None:
    """Another one that grants more hides nothing."""
    mail = '\n[plans.box]\nname = "Box"\nrank = 5\ndefault = true\napp = "mail"\nlimits = { seats = 9 }\n'
    leading = TEXT.replace("[policy]", '[policy]\napp = "crm"').replace("[plans.pro]", '[plans.pro]\napp = "crm"')
    old, new = leading + mail, leading + mail.replace("9", "3")
    await services.receive("acme", plan="pro", quantity=50)
    setting = [Setting(catalog.parse(text), "live", (), services.now_ns()) for text in (old, new)]
    effect = effect_of("acme", facts_of(await services.store.read("tenant:acme")), *setting)
    assert effect == Effect("acme", "pro", "pro", Difference([], ["mail: limit seats: 9 -> 3"], []))
