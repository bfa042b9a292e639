"""What is asked of the entitlement system that exists, what is read of its answer, and the settings that name it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from planwire_client.core.topic import Topic, encode_id
from sync.billing.providers.rate_limit import LocalRateLimiter
from sync.settings import SettingsError, SyncSettings
from sync.source.backend import ANSWER_MAX_BYTES, Backend, SourceError
from sync.source.shadow import ShadowSource, url_of
from tests.support.asgi import serving


def topic(id: str, env: str = "live") -> Topic:
    return Topic(env, "tenant", encode_id(id))


@pytest.mark.parametrize(
    ("base", "id", "env", "url"),
    [
        ("https://a.example/plans", "acme", "live", "https://a.example/plans/acme"),
        ("https://a.example/plans/", "auth0|5f", "live", "https://a.example/plans/auth0%7C5f"),
        ("https://a.example/{tenant}/plan", "a/../b", "live", "https://a.example/a%2F..%2Fb/plan"),
        ("https://a.example/plan?id={tenant}", "a&b=c", "live", "https://a.example/plan?id=a%26b%3Dc"),
        ("https://a.example/{env}/{tenant}", "j@x.y", "sandbox", "https://a.example/sandbox/j%40x.y"),
    ],
)
def test_a_tenant_is_one_part_of_the_address(base: str, id: str, env: str, url: str) -> None:
    assert url_of(base, topic(id, env)) == url


@pytest.mark.parametrize("id", [".", ".."])
def test_an_id_that_means_another_place_is_not_asked_about(id: str) -> None:
    with pytest.raises(SourceError, match="cannot be asked about"):
        url_of("https://a.example/plans", topic(id))


def test_without_the_environment_in_the_address_only_live_is_asked() -> None:
    backend = Backend(timeout_s=1, rate_limiter=LocalRateLimiter(1))
    assert not ShadowSource("https://a.example", "", backend).serves(topic("a", "sandbox"))
    assert ShadowSource("https://a.example", "", backend).serves(topic("a"))
    assert ShadowSource("https://a.example/{env}", "", backend).serves(topic("a", "sandbox"))


@asynccontextmanager
async def asking(token: str = "secret") -> AsyncIterator[ShadowSource]:
    async def answer(request: Request) -> Response:
        match request.path_params["tenant"]:
            case "acme":
                return JSONResponse({"tier": "pro", "by": request.headers.get("authorization")})
            case "moved":
                return RedirectResponse("/acme")
            case "text":
                return PlainTextResponse("pro")
            case "list":
                return JSONResponse(["pro"])
            case "large":
                return PlainTextResponse("x" * (ANSWER_MAX_BYTES + 1))
            case "away":
                return JSONResponse({}, 503)
        return JSONResponse({}, 404)

    async with serving(Starlette(routes=[Route("/{tenant}", answer)])) as url:
        source = ShadowSource(url, token, Backend(timeout_s=5, rate_limiter=LocalRateLimiter(1_000)))
        try:
            yield source
        finally:
            await source.aclose()


async def test_an_answer_is_an_object_and_an_unknown_tenant_has_none() -> None:
    async with asking() as source:
        assert await source.ask(topic("acme"), 1) == {"tier": "pro", "by": "Bearer secret"}
        assert await source.ask(topic("nobody"), 1) is None
    async with asking("") as source:
        assert await source.ask(topic("acme"), 1) == {"tier": "pro", "by": None}


@pytest.mark.parametrize(
    ("id", "problem"),
    [
        ("moved", "redirects are not followed"),
        ("text", "the answer is not JSON"),
        ("list", "the answer is not an object"),
        ("large", "the answer has more than"),
        ("away", "status 503"),
    ],
)
async def test_every_other_answer_is_an_error_that_says_why(id: str, problem: str) -> None:
    async with asking() as source:
        with pytest.raises(SourceError, match=problem):
            await source.ask(topic(id), 1)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("app.example.com", "must be an http or https URL"),
        ("http://app.example.com/x", "must be https, or http on a loopback host"),
        ("https://u:p@app.example.com", "must have no fragment, no user"),
        ("https://{tenant}.example.com/x", "behind the host"),
        ("https://app.example.com/{tenant}/{tenant}", "at most once"),
        ("https://app.example.com/plan?q=1", "must have {tenant} where it has a query"),
    ],
)
def test_a_wrong_address_is_refused_at_the_start(url: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem.replace("{", r"\{").replace("}", r"\}").replace("?", r"\?")):
        SyncSettings.from_env({"PLANWIRE_SHADOW_URL": url})
