"""Reading the provider's list of events, on a store in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from sync.billing.providers.base import ProviderClient, ProviderEvent, ProviderRejected
from sync.billing.services.background.catch_up import CatchUp
from sync.store.keys import DEFAULT_KEYS as keys
from tests.support.services import Billing


class Events:
    """A provider whose list begins anew where it does not accept a cursor."""

    def __init__(self, body: bytes, *, is_closed: bool = False) -> None:
        self.body, self.is_closed = body, is_closed
        self.asked: list[str] = []

    async def events(self, after: str, since_ns: int, max_wait_s: float) -> tuple[Sequence[ProviderEvent], bool]:
        self.asked.append(after)
        if self.is_closed or after not in ("", "evt_1"):
            raise ProviderRejected("bad_request", "after is not an id")
        return [] if after else [ProviderEvent("evt_1", since_ns, self.body)], False


@pytest.mark.parametrize("cursor", [b"\xff\xfe", b"of another provider"])
async def test_a_cursor_that_the_provider_rejects_is_replaced(services: Billing, cursor: bytes) -> None:
    redis: Any = services.store.redis
    key = keys.provider_events("live", "paddle", "cursor")
    await redis.set(key, cursor)
    provider = Events(services.body(event_id="evt_1"))
    assert await CatchUp(services, "paddle", "live", cast(ProviderClient, provider)).run() == 1
    assert provider.asked == [cursor.decode(errors="replace"), ""]
    assert await redis.get(key) == b"evt_1"


async def test_a_provider_that_rejects_everything_leaves_the_cursor(services: Billing) -> None:
    redis: Any = services.store.redis
    key = keys.provider_events("live", "paddle", "cursor")
    await redis.set(key, b"evt_1")
    provider = Events(b"", is_closed=True)
    with pytest.raises(ProviderRejected):
        await CatchUp(services, "paddle", "live", cast(ProviderClient, provider)).run()
    assert await redis.get(key) == b"evt_1"
