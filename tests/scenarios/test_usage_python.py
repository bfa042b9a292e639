"""A Python backend counts a tenant's usage, while its webhooks change the limit and a page shows the count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from planwire_client import AsyncUsage, Retries
from tests.support.gateway import PUBLISH_KEY
from tests.support.system import CATALOG, Tab, ago, event, run_system

METERS = """
[meters.seats]
kind = "allocated"
"""
ACME = "tenant:acme"


def shows(used: int, limit: int) -> Callable[[Tab], bool]:
    def is_shown(tab: Tab) -> bool:
        seats = tab.state and tab.state["meters"]["seats"]
        return bool(seats) and (seats["used"], seats["limit"]) == (used, limit)

    return is_shown


async def test_s116_a_python_backend_counts_against_what_the_last_webhook_said(store_url: str, tmp_path: Path) -> None:
    async with (
        run_system(store_url, tmp_path, catalog=CATALOG + METERS) as system,
        AsyncUsage(system.gateway.url, PUBLISH_KEY) as usage,
        system.tab("usage:acme") as tab,
    ):
        assert await usage.set(ACME, "seats", 1)
        denied = await usage.consume(ACME, "seats")
        assert (denied.allowed, denied.limit, denied.version) == (False, 1, 0)
        await system.outcome(event(ago(20), items=[("pri_pro", 3)]))
        assert (await usage.consume(ACME, "seats")).limit == 3
        await tab.until(shows(2, 3))
        async with usage.reserve(ACME, "seats", 1) as invitation:
            assert not await usage.consume(ACME, "seats")
            invitation.used = 0
        await system.outcome(event(ago(10), items=[("pri_pro", 1)]))
        over = await usage.consume(ACME, "seats")
        assert (over.allowed, over.used, over.limit, over.over) == (False, 2, 1, 1)
        await tab.until(shows(2, 1))


async def test_s116_a_gateway_that_is_gone_is_never_a_denial(store_url: str, tmp_path: Path) -> None:
    fast = Retries(attempts=2, total_timeout_s=1.0, backoff_min_s=0.01)
    async with run_system(store_url, tmp_path, catalog=CATALOG + METERS) as system:
        url = system.gateway.url
        async with AsyncUsage(url, PUBLISH_KEY) as usage:
            assert await usage.set(ACME, "seats", 1)
    async with AsyncUsage(url, PUBLISH_KEY, on_unavailable="allow", retries=fast) as usage:
        counted = await usage.consume(ACME, "seats")
        assert (counted.allowed, counted.is_known, counted.used, counted.limit) == (True, False, None, None)
