"""Requests counted by the ASGI middleware and by the FastAPI dependency: let pass, 429, 503."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from fastapi import Depends, FastAPI, Request

from planwire_client import AsyncUsage, Counted, UsageCall, UsageRefused, UsageUnavailable
from planwire_client.usage.asgi import UsageMiddleware
from planwire_client.usage.fastapi import UsageHTTPException, install, metered

LATER = datetime.now(UTC) + timedelta(hours=1)
FITS = Counted(True, 3, 0, 10, 7, LATER)
FULL = Counted(False, 10, 0, 10, 0, LATER)
AWAY = UsageUnavailable("ConnectError: http://internal:8000", 3, ("k",))


class Scripted(AsyncUsage):
    """Answers every call alike."""

    def __init__(self, answer: Counted | Exception) -> None:
        super().__init__("http://gateway.test", "key")
        self.answer = answer
        self.calls: list[UsageCall] = []

    async def call(self, call: UsageCall) -> Counted:
        self.calls.append(call)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def tenant(request: Request) -> str:
    return f"tenant:{request.headers['x-tenant']}"


def with_middleware(usage: AsyncUsage, **more: Any) -> FastAPI:
    app = FastAPI()

    async def of_scope(scope: Any) -> str | None:
        name = Request(scope).headers.get("x-tenant")
        return f"tenant:{name}" if name else None

    app.add_middleware(UsageMiddleware, usage=usage, meter="api_calls", tenant=of_scope, **more)

    @app.get("/")
    def served() -> str:
        return "served"

    return app


def with_dependency(usage: AsyncUsage, amount: int = 1) -> FastAPI:
    app = FastAPI()
    install(app)
    counting = metered(lambda request: usage, "api_calls", tenant, amount)

    @app.get("/")
    def served(counted: Counted = Depends(counting)) -> str:  # noqa: B008 - as FastAPI reads it
        assert counted.allowed
        return "served"

    return app


KINDS = pytest.mark.parametrize("make", [with_middleware, with_dependency])
Make = Callable[..., FastAPI]


async def get(app: FastAPI, **headers: str) -> httpx2.Response:
    headers = headers or {"x-tenant": "acme"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://app.test") as client:
        return await client.get("/", headers=headers)


@KINDS
async def test_a_request_that_fits_passes_and_is_told_what_is_left(make: Make) -> None:
    usage = Scripted(FITS)
    answer = await get(make(usage, amount=2))
    assert (answer.status_code, answer.json()) == (200, "served")
    assert usage.calls == [UsageCall("tenant:acme", "api_calls", 2)]
    assert (answer.headers["RateLimit-Limit"], answer.headers["RateLimit-Remaining"]) == ("10", "7")
    assert 3000 < int(answer.headers["RateLimit-Reset"]) <= 3600


@KINDS
async def test_a_request_that_does_not_fit_is_answered_429_with_the_time_of_the_reset(make: Make) -> None:
    answer = await get(make(Scripted(FULL)))
    assert (answer.status_code, answer.headers["content-type"]) == (429, "application/problem+json")
    assert 3000 < int(answer.headers["Retry-After"]) <= 3600
    assert (answer.json()["code"], answer.json()["remaining"]) == ("usage_limit_reached", 0)


@KINDS
@pytest.mark.parametrize("answer", [AWAY, Counted(False, is_known=False, reason="ConnectError: http://internal:8000")])
async def test_not_known_is_answered_503_and_says_nothing_of_the_inside(make: Make, answer: Any) -> None:
    found = await get(make(Scripted(answer)))
    assert (found.status_code, found.json()["code"], found.headers["Retry-After"]) == (503, "usage_unknown", "1")
    assert "internal" not in found.text


@KINDS
async def test_allowed_without_an_answer_passes_without_numbers(make: Make) -> None:
    answer = await get(make(Scripted(Counted(True, is_known=False, reason="503"))))
    assert (answer.status_code, "RateLimit-Limit" in answer.headers) == (200, False)


@KINDS
async def test_a_wrong_key_is_no_denial(make: Make) -> None:
    with pytest.raises(UsageRefused):
        await get(make(Scripted(UsageRefused("key_invalid", "d", 401))))


async def test_the_middleware_does_not_count_what_has_no_tenant_or_no_amount() -> None:
    usage = Scripted(FULL)
    assert (await get(with_middleware(usage), accept="*/*")).status_code == 200
    assert (await get(with_middleware(usage, amount=lambda scope: 0))).status_code == 200
    assert usage.calls == []


async def test_the_middleware_lets_other_scopes_pass() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    one = UsageMiddleware(app, Scripted(FULL), "api_calls", lambda scope: "tenant:acme")
    for kind in ("lifespan", "websocket"):
        await one({"type": kind}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan", "websocket"]


async def test_without_install_it_is_a_429_all_the_same() -> None:
    app = with_dependency(Scripted(FULL))
    del app.exception_handlers[UsageHTTPException]
    answer = await get(app)
    assert (answer.status_code, "Retry-After" in answer.headers) == (429, True)
    assert answer.json() == {
        "detail": "1 api_calls do not fit: 10 of 10 are used, and the count begins anew at "
        f"{LATER.isoformat().replace('+00:00', 'Z')}"
    }
