"""Windows of usage that end without waiting for them."""

from __future__ import annotations

from sync.store.command_pipeline import run_commands
from sync.store.store import Store

WINDOW_US = 28 * 86_400 * 1_000_000


async def end_window(store: Store, tenant: str, meter: str, used: int, of_credits: int = 0) -> None:
    """Let a tenant be in the window before the present one, unnoticed, with this count.

    Args:
        tenant: the id in its topic's name.
        used: units of the limit; `of_credits` are those of granted credits.
    """
    key = f"pw:{{tenant:{tenant}}}:usage:meters"
    (count,) = await run_commands(store, ("HGET", key, f"{meter}:count"))
    starts = int(count.split()[2])
    before = f"{used} 0 {starts - WINDOW_US} {starts} 0 {of_credits} 0"
    await run_commands(store, ("HSET", key, f"{meter}:count", before))
