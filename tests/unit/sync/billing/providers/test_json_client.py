"""API clients over plain HTTP: whom they ask, and what they say if there is no answer. The same for every provider."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from planwire_client.http import NO_ANSWER
from sync.billing.providers.base import ProviderUnavailable
from sync.billing.providers.json_client import JsonClient
from sync.billing.providers.polar.client import PolarClient
from sync.billing.providers.rate_limit import LocalRateLimiter
from sync.billing.providers.stripe.client import StripeClient

CLIENTS = [StripeClient, PolarClient]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that were asked; none has an answer. The last error is that of a connection that is dropped at once."""
    asked: list[str] = []

    async def request(self: httpx2.AsyncClient, method: str, path: str, **_: Any) -> None:
        asked.append(str(self.base_url))
        raise NO_ANSWER[(len(asked) - 1) % len(NO_ANSWER)]("gone")

    monkeypatch.setattr(httpx2.AsyncClient, "request", request)
    return asked


@pytest.mark.parametrize("made", CLIENTS)
async def test_a_request_without_an_answer_is_away(made: type[JsonClient], asked: list[str]) -> None:
    for error in NO_ANSWER:
        api = made("live", "key", "http://provider", LocalRateLimiter(1_000, 1_000))
        with pytest.raises(ProviderUnavailable, match=error.__name__) as raised:
            await api.fetch("sub_1", 5)
        assert raised.value.retry_s > 0
        await api.aclose()
    assert asked == ["http://provider"] * len(NO_ANSWER)


@pytest.mark.parametrize(
    ("made", "environment", "url"),
    [
        (StripeClient, "live", "https://api.stripe.com"),
        (StripeClient, "sandbox", "https://api.stripe.com"),
        (PolarClient, "live", "https://api.polar.sh"),
        (PolarClient, "sandbox", "https://sandbox-api.polar.sh"),
    ],
)
async def test_the_provider_s_own_url(made: type[JsonClient], environment: str, url: str, asked: list[str]) -> None:
    api = made(environment, "key", "", LocalRateLimiter(1_000, 1_000))
    with pytest.raises(ProviderUnavailable):
        await api.fetch("sub_1", 5)
    await api.aclose()
    assert asked == [url]
