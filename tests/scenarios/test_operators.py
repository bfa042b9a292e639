"""What operators do: link a subscription, ignore other software's prices, revive a tenant, grant a plan."""

from __future__ import annotations

from tests.support.system import System, ago, event

GRANT_S = 4
"""How long a granted plan lasts in these tests: long enough to look at it on a busy machine."""


class TestGrantedPlan:
    """Scenario 60."""

    PATH = "/v1/tenants/acme/overrides"

    async def test_s60_a_granted_plan_adds_to_billing_and_ends_at_its_date_by_itself(self, system: System) -> None:
        """No webhook comes after the grant. The worker's timer ends it, and the tab sees both changes."""
        async with system.tab() as tab:
            await tab.reaches(await system.apply(event(ago(60), items=[("pri_basic", 5)])))
            ends = ago(-GRANT_S)
            grant = {"kind": "plan", "name": "pro", "reason": "outage", "by": "eve", "expires_at": ends}
            granted = await system.ask("POST", self.PATH, grant)
            await tab.reaches(granted["version"])
            assert (tab.plan, tab.state["status"], tab.state["limits"]["seats"]) == ("pro", "active", 5)
            assert tab.state["grant"]["plan"] == "pro"
            assert (tab.state["valid_until"], tab.state["grant"]["ends_at"]) == (ends, ends)
            preview = await system.ask("POST", "/v1/tenants/acme/preview", {"cancel": "now"})
            assert (preview["state"]["plan"]["key"], preview["state"]["limits"]["seats"]) == ("pro", 1)
            (listed,) = (await system.ask("GET", self.PATH))["overrides"]
            assert listed == {**grant, "value": True}
            status = await system.ask("GET", "/v1/tenants/acme/status")
            assert status["store"]["state"]["grant"]["plan"] == "pro"
            async with system.working():
                await tab.until(lambda tab: tab.plan == "basic")
            assert ("grant" in tab.state, tab.state["limits"]["seats"]) == (False, 5)
            ended, made, _ = (await system.ask("GET", "/v1/tenants/acme/history"))["changes"]
            assert (ended["cause"]["source"], "overrides" in ended["cause"]) == ("timer", False)
            cause = {name: made["cause"][name] for name in ("event_type", "override", "reason", "claimed_by", "by")}
            assert cause == {
                "event_type": "override.granted",
                "override": "plan:pro",
                "reason": "outage",
                "claimed_by": "eve",
                "by": "tests",
            }

    async def test_s60_webhooks_during_a_grant_end_the_same_in_either_order(self, system: System) -> None:
        """What is paid for follows its events beside the grant, and is there again when the grant is removed."""
        history = [(ago(50), [("pri_scale", 1)]), (ago(40), [("pri_basic", 2)])]
        shown = []
        for tenant, order in (("acme", history), ("other", history[::-1])):
            path = f"/v1/tenants/{tenant}/overrides"
            first, second = (event(at, tenant=tenant, items=items) for at, items in order)
            await system.outcome(first)
            await system.ask("POST", path, {"kind": "plan", "name": "pro", "reason": "pilot", "value": 9})
            await system.outcome(second)
            granted = await system.state(f"tenant:{tenant}")
            await system.ask("DELETE", f"{path}/plan/pro", {"reason": "over"})
            shown.append((granted, await system.state(f"tenant:{tenant}")))
        assert shown[0] == shown[1]
        (granted, after), _ = shown
        assert (granted["plan"]["key"], granted["limits"]["seats"]) == ("pro", 9)
        assert (after["plan"]["key"], after["limits"]["seats"]) == ("basic", 2)

    async def test_s60_a_reverse_trial_starts_now_and_falls_back_to_what_is_paid_for(self, system: System) -> None:
        """A tenant that has bought nothing has the plan as a trial, and the default plan after it."""
        async with system.tab() as tab, system.working():
            ends = ago(-GRANT_S)
            trial = {"kind": "plan", "name": "scale", "reason": "sign-up", "expires_at": ends, "trial": True}
            await tab.reaches((await system.ask("POST", self.PATH, trial))["version"])
            assert (tab.plan, tab.state["status"], tab.state["trial_ends_at"]) == ("scale", "trialing", ends)
            await tab.until(lambda tab: tab.plan == "free")
            assert (tab.state["status"], "trial_ends_at" in tab.state) == ("none", False)
