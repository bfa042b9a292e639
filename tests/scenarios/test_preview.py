"""A preview is bound to the version that it was made of: confirmed later, it would be of something else."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.system import run_system, selling

PATH = "/v1/tenants/acme/preview"


async def test_s25_a_preview_of_a_version_that_has_moved_on_is_not_confirmed_and_a_new_one_is(
    store_url: str, tmp_path: Path
) -> None:
    """Between preview and confirmation somebody else adds seats; then the price and the plan are no longer these."""
    async with (
        selling(tmp_path / "seller") as seller,
        run_system(store_url, tmp_path, **seller.settings) as system,
        system.tab() as tab,
    ):
        await system.tell(seller.events((await seller.act("upgrade", plan="basic", quantity=2))["event_ids"]))
        await (await tab.until(lambda tab: tab.plan == "basic")).fence()
        quoted = await system.ask("POST", PATH, {"plan": "pro"})
        assert (quoted["version"], quoted["state"]["limits"]["seats"]) == (tab.version, 2)
        await system.tell(seller.events((await seller.act("seats", quantity=5))["event_ids"]))
        await tab.until(lambda tab: tab.state["limits"]["seats"] == 5)
        moved = (await tab.fence()).version
        confirm = f"{PATH}/{quoted['preview_id']}/confirm"
        refused = await system.http.post(confirm, json={"apply": True}, headers=system.key)
        assert (refused.status_code, refused.json()["code"]) == (409, "preview_stale")
        assert str(moved) in refused.json()["detail"]
        await tab.fence()
        assert (tab.version, tab.plan, await seller.price()) == (moved, "basic", "pri_basic")
        # Quoted again, of two confirmations at once one counts, and what comes is what was quoted.
        again = await system.ask("POST", PATH, {"plan": "pro"})
        assert again["state"]["limits"]["seats"] == 5
        confirm = f"{PATH}/{again['preview_id']}/confirm"
        answers = await asyncio.gather(
            *(system.http.post(confirm, json={"apply": True}, headers=system.key) for _ in range(2))
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409], [answer.text for answer in answers]
        await (await tab.until(lambda tab: tab.plan == "pro")).fence()
        assert await seller.price() == "pri_pro"
        assert tab.state == again["state"]
