"""Several applications on one billing layer: each has its plan, and the tenant has them all."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sync.core import instants
from tests.support.histories import APPS_TEXT
from tests.support.system import System, Tab, ago, event, run_system, selling

CRM, MAIL = ("pri_crm", 5), ("pri_mail", 2)
LATER = ago(-30 * 86_400)


@pytest.fixture
async def system(store_url: str, tmp_path: Path) -> AsyncIterator[System]:
    async with run_system(store_url, tmp_path, catalog=APPS_TEXT) as system:
        yield system


def bought(*items: tuple[str, int], app: str, at: float = 60, **fields: Any) -> bytes:
    """The event of a subscription of its own for each application."""
    period = {"starts_at": ago(86_400), "ends_at": LATER}
    return event(ago(at), id=f"sub_{app}", items=list(items), current_billing_period=period, **fields)


def plans(tab: Tab) -> dict[str, tuple[str | None, str]]:
    return {app: (each.get("plan", {}).get("key"), each["status"]) for app, each in tab.state["apps"].items()}


class TestApplications:
    """Scenario 88."""

    async def test_s88_each_application_has_its_own_plan_whatever_the_rank_of_the_other_s(self, system: System) -> None:
        async with system.tab() as tab:
            await tab.reaches(await system.apply(bought(MAIL, app="mail")))
            assert plans(tab) == {"crm": ("crm_free", "none"), "mail": ("mail", "active")}
            assert tab.plan == "crm_free", "the leading application's"
            await tab.reaches(await system.apply(bought(CRM, app="crm", status="past_due")))
            assert plans(tab) == {"crm": ("crm", "past_due"), "mail": ("mail", "active")}
            assert (tab.plan, tab.state["status"]) == ("crm", "past_due")
            assert tab.state["features"] == {"contacts": True, "pipeline": True, "tickets": True}
            assert [each["limits"]["seats"] for each in tab.state["apps"].values()] == [5, 2]
            await tab.reaches(await system.apply(bought(MAIL, app="mail", at=30, status="canceled")))
            assert plans(tab) == {"crm": ("crm", "past_due"), "mail": (None, "canceled")}
            assert "tickets" not in tab.state["features"]

    async def test_s88_any_order_of_arrival_ends_alike(self, system: System) -> None:
        ends = []
        for number, order in enumerate(itertools.permutations(range(4))):
            tenant = f"t{number}"
            whose = {"tenant": tenant, "customer_id": f"ctm_{tenant}"}
            history = [
                event(ago(400), id=f"sub_crm_{tenant}", event_id=f"evt_{tenant}_1", items=[CRM, MAIL], **whose),
                event(ago(300), id=f"sub_crm_{tenant}", event_id=f"evt_{tenant}_2", items=[CRM], **whose),
                event(ago(350), id=f"sub_mail_{tenant}", event_id=f"evt_{tenant}_3", items=[MAIL], **whose),
                event(ago(200), id=f"sub_mail_{tenant}", event_id=f"evt_{tenant}_4", items=[("pri_suite", 1)], **whose),
            ]
            await system.tell([history[index] for index in order])
            ends.append(await system.state(f"tenant:{tenant}"))
        assert all(end == ends[0] for end in ends)
        assert {app: each["plan"]["key"] for app, each in ends[0]["apps"].items()} == {"crm": "suite", "mail": "suite"}

    async def test_s88_a_catalog_that_begins_to_name_applications_pushes_them(self, system: System) -> None:
        """What was bought stays, under its application."""
        plain = APPS_TEXT.replace('app = "crm"\n', "").replace('app = "mail"\n', "").replace("[policy]\n", "")
        system.catalog.write_text(plain)
        async with system.tab() as tab:
            await tab.reaches(await system.apply(bought(CRM, app="crm")))
            assert "apps" not in tab.state
            system.catalog.write_text(APPS_TEXT)
            async with system.working():
                await tab.until(lambda tab: "apps" in tab.state)
            assert plans(tab) == {"crm": ("crm", "active"), "mail": (None, "none")}
            assert tab.plan == "crm"


async def test_s88_the_local_provider_sells_each_application_by_itself(store_url: str, tmp_path: Path) -> None:
    async with (
        selling(tmp_path / "seller", APPS_TEXT) as seller,
        run_system(store_url, tmp_path, catalog=APPS_TEXT, **seller.settings) as system,
        system.tab() as tab,
    ):

        async def act(action: str, **options: Any) -> None:
            await system.tell(seller.events((await seller.act(action, **options))["event_ids"]))
            await tab.fence()

        await act("upgrade", plan="crm", quantity=2)
        await act("trial", plan="mail")
        assert plans(tab) == {"crm": ("crm", "active"), "mail": ("mail", "trialing")}
        await act("upgrade")
        assert plans(tab) == {"crm": ("crm_max", "active"), "mail": ("mail", "trialing")}, "the leading application's"
        await act("cancel", app="mail", when="now")
        assert plans(tab) == {"crm": ("crm_max", "active"), "mail": (None, "canceled")}


class TestChangesOfOneApplication:
    """Scenario 89: a preview, a scheduled change and an override are about one application."""

    async def test_s89_a_preview_changes_the_plan_of_its_application(self, system: System) -> None:
        await system.apply(bought(CRM, MAIL, app="both"))
        seen = await system.ask("POST", "/v1/tenants/acme/preview", {"plan": "crm_max"})
        assert {app: each["plan"]["key"] for app, each in seen["state"]["apps"].items()} == {
            "crm": "crm_max",
            "mail": "mail",
        }
        changed = {entry["path"] for entry in seen["diff"]}
        assert "apps.crm.plan.key" in changed
        assert not any(path.startswith("apps.mail") for path in changed)
        wrong = await system.http.post(
            "/v1/tenants/acme/preview", json={"plan": "crm_max", "app": "mail"}, headers=system.key
        )
        assert (wrong.status_code, wrong.json()["code"]) == (422, "plan_unknown")
        nowhere = await system.http.post(
            "/v1/tenants/acme/preview", json={"cancel": "now", "app": "shop"}, headers=system.key
        )
        assert (nowhere.status_code, nowhere.json()["code"]) == (422, "app_unknown")

    async def test_s89_each_application_has_its_own_scheduled_change(self, system: System) -> None:
        path = "/v1/tenants/acme/scheduled-change"
        async with system.tab() as tab:
            await system.apply(bought(("pri_crm_max", 1), app="crm"))
            await system.apply(bought(MAIL, app="mail"))
            first = await system.ask("POST", path, {"plan": "crm"})
            assert first["scheduled"]["plan"] == "crm"
            second = await system.ask("POST", path, {"plan": "suite", "app": "mail"})
            assert (second["replaced"], second["scheduled"]["plan"]) == (False, "suite")
            await tab.reaches(second["version"])
            shown = {app: each["scheduled"]["plan"] for app, each in tab.state["apps"].items()}
            assert shown == {"crm": "crm", "mail": "suite"}
            assert tab.state["scheduled"] == tab.state["apps"]["crm"]["scheduled"]
            assert instants.parse(tab.state["valid_until"]) == instants.parse(LATER)
            dropped = await system.ask("DELETE", f"{path}?app=mail")
            await tab.reaches(dropped["version"])
            assert "scheduled" not in tab.state["apps"]["mail"]
            assert tab.state["scheduled"]["plan"] == "crm"

    async def test_s89_an_operator_grants_for_one_application(self, system: System) -> None:
        path = "/v1/tenants/acme/overrides"
        async with system.tab() as tab:
            await system.apply(bought(CRM, app="crm"))
            for body in (
                {"kind": "plan", "name": "mail", "value": 4, "reason": "promised"},
                {"kind": "feature", "name": "pipeline", "revoke": True, "app": "crm", "reason": "abuse"},
                {"kind": "feature", "name": "beta", "value": True, "app": "mail", "reason": "asked"},
            ):
                version = (await system.ask("POST", path, body))["version"]
            await tab.reaches(version)
            assert plans(tab) == {"crm": ("crm", "active"), "mail": ("mail", "active")}
            apps = tab.state["apps"]
            assert (apps["crm"]["features"], apps["mail"]["limits"]["seats"]) == ({"contacts": True}, 4)
            assert sorted(apps["mail"]["features"]) == ["beta", "tickets"]
            listed = (await system.ask("GET", path))["overrides"]
            assert [one.get("app") for one in listed] == ["crm", "mail", "mail"]
            await system.ask("DELETE", f"{path}/feature/beta?app=mail")
            assert len((await system.ask("GET", path))["overrides"]) == 2
            wrong = {"kind": "plan", "name": "mail", "app": "crm", "reason": "x"}
            answer = await system.http.post(path, json=wrong, headers=system.key)
            assert (answer.status_code, answer.json()["code"]) == (422, "override_invalid")
