"""A payment fails: the tenant is in grace from the first sign of it, and at its end access goes, webhook or none."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from sync.core import instants
from tests.support.system import CATALOG, System, ago, event, run_system, selling

GRACE_S = 3
SHORT_GRACE = CATALOG.replace('grace = "7d"', f'grace = "{GRACE_S}s"')
LATE_S = 8.0
"""How long after its instant a worker on a busy machine may act."""


async def test_s10_a_failed_renewal_is_past_due_in_any_order_and_never_a_renewal_that_was_paid(
    system: System, tmp_path: Path
) -> None:
    """The provider sends three: active with the new period, past_due, and past_due again."""
    states = []
    async with selling(tmp_path / "seller") as seller:
        for number, order in enumerate(itertools.permutations(range(3))):
            tenant = f"t{number}"
            for body in seller.events((await seller.act("upgrade", tenant, plan="pro"))["event_ids"]):
                await system.outcome(body)
            failed = await seller.act("past_due", tenant)
            kinds = [entry["event_type"] for entry in failed["events"] if entry["event_type"].startswith("sub")]
            assert kinds == ["subscription.updated", "subscription.updated", "subscription.past_due"]
            bodies = [body for body in seller.events(failed["event_ids"]) if b'"subscription.' in body]
            async with system.tab(f"tenant:{tenant}") as tab:
                for index in order:
                    await system.outcome(bodies[index])
                await tab.fence()
                assert (tab.plan, tab.state["status"]) == ("pro", "past_due")
                assert "period" not in tab.state, "the period that is shown is not paid"
                assert "grace_ends_at" in tab.state
                states.append({key: value for key, value in tab.state.items() if key not in ("grace_ends_at",)})
                assert tab.state["valid_until"] == tab.state["grace_ends_at"]
    assert [state["limits"] for state in states] == [states[0]["limits"]] * 6


async def test_s11_access_drops_when_grace_ends_though_no_webhook_comes_and_never_flickers_when_it_is_paid_before(
    store_url: str, tmp_path: Path
) -> None:
    async with (
        run_system(store_url, tmp_path, catalog=SHORT_GRACE) as system,
        system.working(),
        system.tab("tenant:late") as late,
        system.tab("tenant:paid") as paid,
    ):
        for tenant in ("late", "paid"):
            await system.apply(event(ago(100), tenant=tenant, kind="subscription.created"))
        failed = ago(0)
        for tenant in ("late", "paid"):
            await system.apply(event(failed, tenant=tenant, kind="subscription.past_due", status="past_due"))
        await system.apply(event(ago(-0.001), tenant="paid"))
        ends_ns = instants.parse(failed) + GRACE_S * 1_000_000_000
        await late.until(lambda tab: tab.state and tab.state["status"] == "past_due")
        assert late.plan == "pro"
        assert instants.parse(late.state["grace_ends_at"]) == ends_ns
        await late.until(lambda tab: tab.plan == "free", timeout_s=GRACE_S + LATE_S)
        assert ends_ns <= time.time_ns() < ends_ns + LATE_S * 1e9
        assert late.cause["source"] == "timer"
        assert late.state["status"] == "past_due"
        # The other's instant has passed as well by now.
        await paid.fence()
        assert (paid.plan, paid.state["status"]) == ("pro", "active")
        assert {state["plan"]["key"] for _, state in paid.shown if state} == {"pro"}


async def test_s12_the_period_that_has_rolled_already_is_not_paid_through(system: System) -> None:
    new_period = {"starts_at": ago(60), "ends_at": ago(-30 * 86_400)}
    async with system.tab() as tab:
        await system.apply(event(ago(100), current_billing_period={"starts_at": ago(200), "ends_at": ago(60)}))
        failed = ago(59)
        version = await system.apply(
            event(failed, kind="subscription.past_due", status="past_due", current_billing_period=new_period)
        )
        await tab.reaches(version)
        assert "period" not in tab.state
        week_ns = 7 * 86_400 * 1_000_000_000
        assert instants.parse(tab.state["valid_until"]) == instants.parse(failed) + week_ns
        assert new_period["ends_at"] not in str(tab.state)
