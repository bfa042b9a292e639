"""A system that sells through Polar: its catalog, its settings, and deliveries to its door."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.polar import KEY, Polar
from tests.support.polar_bodies import PRICES, PRODUCTS, SANDBOX_SECRET, SECRET, signed
from tests.support.system import CATALOG, System, Tab, run_system


def catalog(table: str, ids: Mapping[str, str]) -> str:
    """The scenarios' catalog, sold through Polar: a plan's key -> the id of its price or product."""
    text = CATALOG
    for key in ("basic", "pro"):
        name = f'\nname = "{key.capitalize()}"\n'
        text = text.replace(name, f'{name}{table}.polar.live = ["{ids[key]}"]\n')
    return text


SOLD = catalog("products", PRODUCTS)
BY_PRICE = catalog("prices", PRICES)


@asynccontextmanager
async def shop(store_url: str, directory: Path, sold: str = SOLD, **settings: str) -> AsyncIterator[System]:
    """A system that is open to Polar's webhooks."""
    secrets = {"POLAR_SECRETS": f"live:{SECRET},sandbox:{SANDBOX_SECRET}", **settings}
    async with run_system(store_url, directory, catalog=sold, **secrets) as system:
        yield system


def asking(polar: Polar) -> dict[str, str]:
    """The settings of a system that asks Polar."""
    return {"POLAR_API_KEYS": f"live:{KEY}", "POLAR_API_URL": polar.url, "POLAR_API_RATE_PER_S": "1000"}


async def post(system: System, body: bytes, event_id: str = "", *secrets: str, **options: Any) -> dict[str, Any]:
    """What a delivery of Polar's is answered."""
    headers = signed(body, event_id, *secrets, **options)
    answer: dict[str, Any] = (await system.http.post("/webhooks/polar", content=body, headers=headers)).json()
    return answer


async def shown(tab: Tab, plan: str, **fields: Any) -> None:
    """Wait until a tab shows the plan and these fields of its state."""
    await tab.until(lambda tab: tab.plan == plan and fields.items() <= tab.state.items())
