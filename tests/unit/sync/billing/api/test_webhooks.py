"""The routes of webhooks, in one process on a store in memory: paths, methods, sizes and forms of bodies."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from sync.billing.api import webhooks
from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.providers.stripe.webhooks import StripeWebhooks
from sync.http.paths import PathMiddleware
from sync.http.problem import exception_handlers
from sync.settings import SyncSettings
from tests.support.bodies import SECRET, signature
from tests.support.services import Billing, billing

LIMIT = 2000
SETTINGS = {
    "PLANWIRE_PADDLE_SECRETS": f"live:{SECRET}",
    "PLANWIRE_CATALOG": str(EXAMPLE),
    "PLANWIRE_WEBHOOK_BODY_MAX_BYTES": str(LIMIT),
}


@pytest.fixture
def services() -> Iterator[Billing]:
    with billing(CatalogWatcher(EXAMPLE)) as services:
        yield services


@pytest.fixture
async def door(services: Billing) -> AsyncIterator[httpx2.AsyncClient]:
    app = Starlette(
        routes=webhooks.routes(services, SyncSettings.from_env(SETTINGS)), exception_handlers=exception_handlers()
    )
    app.router.redirect_slashes = False
    transport = httpx2.ASGITransport(PathMiddleware(app))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


def signed(body: bytes, **headers: str) -> dict[str, str]:
    return {"Paddle-Signature": signature(body, int(time.time()), SECRET), **headers}


@pytest.mark.parametrize("path", ["/webhooks/paddle", "/webhooks/paddle/", "//webhooks/paddle", "/webhooks//paddle//"])
async def test_slashes_too_many_are_no_matter(services: Billing, door: httpx2.AsyncClient, path: str) -> None:
    body = services.body()
    answer = await door.post(f"http://127.0.0.1{path}", content=body, headers=signed(body))
    assert (answer.status_code, answer.json()["outcome"]) == (200, "applied")
    for method in ("GET", "HEAD", "PUT"):
        answer = await door.request(method, f"http://127.0.0.1{path}")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/webhooks/paddlex", "/webhooks/paddle/x", "/webhookspaddle", "/webhooks/paddle%0A"])
async def test_other_paths_are_not_found(services: Billing, door: httpx2.AsyncClient, path: str) -> None:
    body = services.body()
    answer = await door.post(path, content=body, headers=signed(body))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(LIMIT - 1, 200), (LIMIT, 200), (LIMIT + 1, 413)])
async def test_the_limit_is_exact(
    services: Billing, door: httpx2.AsyncClient, size: int, status: int, is_chunked: bool
) -> None:
    body = services.body()
    body += b" " * (size - len(body))

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 700):
            yield body[start : start + 700]

    content: Any = chunks() if is_chunked else body
    answer = await door.post("/webhooks/paddle", content=content, headers=signed(body))
    assert answer.status_code == status
    if status == 413:
        assert answer.json()["detail"] == f"the body may have {LIMIT} bytes"


@pytest.mark.parametrize("header", [{}, {"Content-Encoding": "gzip"}, {"Content-Encoding": "GZIP"}])
async def test_a_compressed_body_is_refused_and_says_so(
    services: Billing, door: httpx2.AsyncClient, header: dict[str, str]
) -> None:
    """Its signature may be right, and then it would wait unread for ever."""
    body = gzip.compress(services.body())
    answer = await door.post("/webhooks/paddle", content=body, headers=signed(body, **header))
    assert (answer.status_code, answer.json()["code"]) == (415, "content_encoding_unsupported")
    assert "gzip" in answer.json()["detail"]
    assert await services.environment("live").inbox.counts() == (0, 0)


class TestConnectedAccounts:
    """Events of connected accounts that cannot be read."""

    BODY = json.dumps(
        {
            "id": "evt_1",
            "object": "event",
            "type": "customer.subscription.updated",
            "account": "acct_other",
            "created": 1_795_000_000,
            "livemode": True,
            "data": {"object": {"id": "sub_1", "status": "active", "plan": {"id": "of an old API version"}}},
        }
    ).encode()

    @pytest.fixture
    def services(self, request: pytest.FixtureRequest) -> Iterator[Billing]:
        accounts = getattr(request, "param", ())
        with billing(CatalogWatcher(EXAMPLE), accounts={"stripe": accounts}) as services:
            services.adapters = {"stripe": StripeWebhooks()}
            yield services

    async def test_it_is_ignored(self, services: Billing) -> None:
        result = await services.ingest.receive(services.adapters["stripe"], self.BODY, "live")
        assert (result.outcome, "acct_other" in result.reason) == ("ignored", True)
        record = await services.environment("live").inbox.read("evt_1")
        assert record is not None
        assert (record.status, record.body) == ("done", b""), "the body of another merchant is not kept"

    @pytest.mark.parametrize("services", [("acct_other",), ("*",)], indirect=True)
    async def test_one_of_a_configured_account_is_parked(self, services: Billing) -> None:
        result = await services.ingest.receive(services.adapters["stripe"], self.BODY, "live")
        assert (result.outcome, result.reason) == ("parked", "unparsable: items.data is not a list of at most 1000")
