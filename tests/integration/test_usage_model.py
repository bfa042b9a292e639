"""Any calls, plan changes and passing time: the script counts what a plain model counts, and never too much."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from planwire_client.core.commit import BILLING
from sync.billing.catalog.catalog import parse
from sync.core import instants
from sync.store.command_pipeline import Script
from sync.store.models import Change, StoreError
from sync.store.redis.connect import connect
from sync.usage import calls as usage_calls
from sync.usage.calls import Answer, Call, Rejected, UsageCalls
from sync.usage.meters import meters_of
from sync.usage.terms import terms
from tests.support.servers import Server, start_valkey
from tests.support.usage_model import Model

CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true
limits = { calls = 5, scaled = 5, fresh = 5, soft = 5, open = 5, seats = 2 }
credits = { ai = 3 }

[meters]
calls = { kind = "consumable" }
scaled = { kind = "consumable", at_plan_change = "scale" }
fresh = { kind = "consumable", at_plan_change = "reset", reset = "month" }
soft = { kind = "consumable", overage = "soft" }
open = { kind = "consumable", overage = "allow", reset = "never" }
seats = { kind = "allocated" }
ai = { kind = "credits" }
"""
METERS = meters_of(parse(CATALOG))
NAMES = sorted(METERS.by_name)
TENANT = "tenant:acme"
CLOCK = "{tenant:acme}clock"
KEYS_KEY = "pw:{tenant:acme}:usage:keys"
DAY_US = 86_400_000_000
BEGINS_US = instants.parse("2026-01-31T10:00:00Z") // 1000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with start_valkey() as server:
        yield server


@pytest.fixture
def machine(server: Server, monkeypatch: pytest.MonkeyPatch) -> type[RuleBasedStateMachine]:
    source = usage_calls._USAGE.source
    assert source.count("redis.call('TIME')") == 1
    source = source.replace("redis.call('TIME')", f"redis.call('HMGET', '{CLOCK}', 's', 'us')")
    monkeypatch.setattr(usage_calls, "_USAGE", Script(source, hashlib.sha1(source.encode()).hexdigest()))

    class Machine(Tenant):
        url = server.url

    return Machine


class Tenant(RuleBasedStateMachine):
    """One tenant's calls, each compared with the model's."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.model, self.now_us, self.told = Model(), BEGINS_US, b""
        self.owner, self.version, self.state, self.periods = BILLING, "0", b"null", b""
        self.ids: list[str] = []
        self.number = 0
        self.loop.run_until_complete(self._open())

    async def _open(self) -> None:
        self.store = connect(self.url).store
        await self.store.redis.flushall()
        self.calls = UsageCalls(self.store, lambda: METERS)
        await self._set_clock()

    async def _set_clock(self) -> None:
        s, us = divmod(self.now_us, 1_000_000)
        await self.store.redis.hset(CLOCK, mapping={"s": s, "us": us})

    def teardown(self) -> None:
        self.loop.run_until_complete(self.store.aclose())
        self.loop.close()

    def _run(self, operation: Any, meter: str = "", amount: int = 0, **more: Any) -> Answer | Rejected | StoreError:
        (found,) = self.loop.run_until_complete(self.calls.run([Call(TENANT, operation, meter, amount, **more)]))
        return found

    def _adopt(self) -> None:
        if self.told == b"":
            self.told = terms(METERS, self.version, self.owner, self.state, self.periods, self.now_us)
            self.periods = orjson.loads(self.told)["periods"].encode()
            self.model.adopt(self.told, self.now_us)

    def _compare(self, operation: Any, meter: str, amount: int, **more: Any) -> Answer:
        self._adopt()
        allowed, used, held, limit = self.model.call(self.now_us, operation, meter, amount, **more)
        found = self._run(operation, meter, amount, **more)
        assert isinstance(found, Answer), found
        shown = -1 if limit == float("inf") else limit
        assert (found.is_allowed, found.used, found.reserved, found.limit) == (allowed, used, held, shown)
        assert min(found.used, found.reserved) >= 0
        is_strict = METERS.by_name[meter].overage == "deny" and operation in ("consume", "reserve", "set")
        assert not (is_strict and allowed and not found.is_repeated and shown >= 0 and amount) or (
            self.model.meters[meter].total <= limit or operation == "set"
        ), "oversold"
        return found

    @rule(meter=st.sampled_from(NAMES), amount=st.integers(1, 6), keyed=st.booleans())
    def consume(self, meter: str, amount: int, keyed: bool) -> None:
        self.number += keyed
        key = f"k{self.number}" if keyed else ""
        first = self._compare("consume", meter, amount, key=key)
        if keyed and first.is_allowed:
            again = self._compare("consume", meter, amount, key=key)
            assert (again.is_repeated, again.used) == (True, first.used)

    @rule(amount=st.integers(1, 6))
    def refused(self, amount: int) -> None:
        """What counts nothing may still be the first to find an upgrade, a new window or an ended reservation."""
        self._adopt()
        self.model.tick(self.now_us)
        known = self.store.redis.hset(KEYS_KEY, "other", f"{self.now_us} reserve calls {amount}")
        self.loop.run_until_complete(known)
        assert self._run("consume", "calls", amount, key="other") == Rejected("key_reused")

    @rule()
    def look(self) -> None:
        """Pages show what is counted, at the latest when the last caller was told to announce it."""
        self._adopt()
        found = self._run("read")
        assert isinstance(found, Answer), found
        if found.push_in_us:
            self.now_us += found.push_in_us
            self.loop.run_until_complete(self._set_clock())
            found = self._run("read")
            assert isinstance(found, Answer), found
            assert not found.push_in_us, "it is announced in time"
        self.model.tick(self.now_us)
        state = orjson.loads(self.loop.run_until_complete(self.store.read("usage:acme")).state)
        now = self._run("show")
        assert isinstance(now, Answer), now
        counted = orjson.loads(now.meters)
        counted["ai"].pop("counted")
        assert (state["entitlements"], state["meters"]) == (int(self.version), counted)

    @rule(meter=st.sampled_from(NAMES), amount=st.integers(1, 6))
    def release(self, meter: str, amount: int) -> None:
        self._compare("release", meter, amount)

    @rule(amount=st.integers(0, 9))
    def set_seats(self, amount: int) -> None:
        self._compare("set", "seats", amount)

    @rule(meter=st.sampled_from(NAMES), how=st.sampled_from(["to", "by"]), amount=st.integers(-4, 9))
    def adjust(self, meter: str, how: str, amount: int) -> None:
        self._compare("adjust", meter, amount if how == "by" else abs(amount), id=how)

    @rule(meter=st.sampled_from(NAMES), amount=st.integers(1, 6), days=st.integers(1, 40))
    def reserve(self, meter: str, amount: int, days: int) -> None:
        self.number += 1
        held = f"{meter}/{self.number}"
        if self._compare("reserve", meter, amount, id=held, lasts_us=days * DAY_US).is_allowed:
            self.ids.append(held)

    @precondition(lambda self: self.ids)
    @rule(index=st.integers(0, 99), amount=st.integers(0, 8))
    def end(self, index: int, amount: int) -> None:
        held = self.ids.pop(index % len(self.ids))
        meter = held.partition("/")[0]
        if amount:
            self._compare("finalize", meter, amount, id=held, key=f"finalize:{held}")
        else:
            self._compare("cancel", meter, 0, id=held)

    @rule(amount=st.integers(1, 5), days=st.integers(0, 50))
    def grant(self, amount: int, days: int) -> None:
        self.number += 1
        ends_us = self.now_us + days * DAY_US if days else 0
        self._compare("grant", "ai", amount, id=f"o{self.number}", ends_us=ends_us)

    @rule(hours=st.integers(1, 1000))
    def wait(self, hours: int) -> None:
        self.now_us += hours * 3_600_000_000 + 1
        self.loop.run_until_complete(self._set_clock())

    @initialize()
    def begin(self) -> None:
        self._compare("consume", "calls", 1)

    @rule(
        plan=st.sampled_from(["free", "pro", "max"]),
        limit=st.sampled_from([0, 3, 7, 20, "unlimited"]),
        begins=st.integers(-40, 0),
        length=st.sampled_from([7, 30, 31, 365]),
        bought=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(0, 60)), max_size=3),
    )
    def entitle(self, plan: str, limit: object, begins: int, length: int, bought: list[tuple[int, int, int]]) -> None:
        # The script never learns of a version that another follows before anybody calls.
        starts_us = self.now_us + begins * DAY_US
        period = {"starts_at": instants.text_us(starts_us), "ends_at": instants.text_us(starts_us + length * DAY_US)}
        credits = [
            {"id": f"b{key}", "amount": amount}
            | ({"ends_at": instants.text_us(BEGINS_US + days * DAY_US)} if days else {})
            for key, amount, days in {each[0]: each for each in bought}.values()
        ]
        limits = dict.fromkeys(NAMES, limit)
        state = {"plan": {"key": plan}, "limits": limits, "period": period, "credits": {"ai": credits}}
        self.owner, self.state, self.told = BILLING, orjson.dumps(state), b""
        change = Change(TENANT, self.state, owner=BILLING)
        self.version = str(self.loop.run_until_complete(self.store.commit(change)).version)


def test_any_calls_are_counted_as_by_the_model(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
