"""Which tenants are switched: a share by a stable hash, and names that go before it."""

from __future__ import annotations

from hypothesis import given, strategies as st

from sync.billing.storage.shadow import ShadowLog, Switches, place_of
from sync.store.command_pipeline import CommandPipeline
from tests.support.memory_store import memory_store

SHARES = st.floats(0, 1)


@given(id=st.text(min_size=1), first=SHARES, second=SHARES)
def test_a_share_that_grows_keeps_the_tenants_that_it_has(id: str, first: float, second: float) -> None:
    less, more = sorted((first, second))
    assert not Switches(less).is_on(id) or Switches(more).is_on(id)
    assert Switches(1.0).is_on(id)
    assert not Switches(0.0).is_on(id)


@given(id=st.text(min_size=1), share=SHARES)
def test_a_name_goes_before_the_share(id: str, share: float) -> None:
    assert Switches(share, {id: True}).is_on(id)
    assert not Switches(share, {id: False}).is_on(id)


def test_a_share_is_about_that_share_and_its_places_never_change() -> None:
    on = sum(Switches(0.1).is_on(f"tenant-{number}") for number in range(10_000))
    assert 850 < on < 1150
    assert round(place_of("acme"), 6) == PLACE_OF_ACME


PLACE_OF_ACME = 0.508472
"""Whoever changes it moves tenants in and out of a share that is switched."""


async def test_what_is_stored_is_what_is_read() -> None:
    with memory_store() as store:
        log = ShadowLog(store, "live")
        assert await log.switches() == Switches()
        assert not await log.is_switched("tenant:acme")
        await log.switch_tenant("tenant:acme", 1, on=True)
        await log.switch_tenant("tenant:b", 1, on=False)
        await log.switch_share(1.0, {}, clears=False)
        assert await log.switches() == Switches(1.0, {"acme": True, "b": False})
        assert [await log.is_switched(f"tenant:{id}") for id in ("acme", "b", "c")] == [True, False, True]
        await log.switch_share(0.25, {"by": "eve"}, clears=True)
        assert await log.switches() == Switches(0.25)
        assert await log.switched_by("tenant:b") == (True, {"by": "eve"})


async def test_an_older_answer_never_takes_the_place_of_a_newer_one() -> None:
    with memory_store() as store:
        log = ShadowLog(store, "live")
        for at_us, plan in ((5, "pro"), (4, "basic"), (5, "scale")):
            batch = CommandPipeline(store)
            log.put_record(batch, "tenant:acme", at_us, {"plan": plan})
            await batch.run()
        assert await log.record("tenant:acme") == {"at_us": 5, "plan": "scale"}
        assert [topic async for topic in log.topics()] == ["tenant:acme"]
