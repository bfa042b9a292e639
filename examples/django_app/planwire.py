"""The project's one replica and its one client of usage, the decorators that gate and count views, and tokens.

Both connect on their first use.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps

import jwt
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from planwire_client import (
    Counted,
    FeatureDenied,
    NotCurrent,
    ThreadReplica,
    Usage,
    UsageUnavailable,
    read_version,
    topic,
)
from planwire_client.usage.denial import denial, rate_limit_headers

TOKEN_S = 600

View = Callable[[HttpRequest], HttpResponse]


def mint(sub: str, topics: list[str]) -> str:
    """Return a token that lets `sub` read `topics` for ten minutes."""
    claims = {"sub": sub, "topics": topics, "exp": int(time.time()) + TOKEN_S}
    return jwt.encode(claims, settings.PLANWIRE_JWT_SECRET, algorithm="HS256")


replica = ThreadReplica(settings.PLANWIRE_URL, lambda: mint("django-app", ["*"]))
usage = Usage(settings.PLANWIRE_URL, settings.PLANWIRE_PUBLISH_KEY)


def topic_of(request: HttpRequest) -> str:
    """Return the topic of the request's tenant. A real project uses `request.user`; here a cookie replaces it."""
    return topic("workspace", request.COOKIES["tenant"])


def feature_required(name: str) -> Callable[[View], View]:
    """Return a decorator that admits only tenants with the feature, by a state at least as new as their browser's."""

    def decorate(view: View) -> View:
        @wraps(view)
        def gated(request: HttpRequest) -> HttpResponse:
            seen = read_version(request.headers, time.time())
            try:
                replica.ensure(topic_of(request), name, min_version=seen)
            except FeatureDenied:
                return HttpResponse(f"{name} is not in your plan", status=402)
            except NotCurrent:
                return HttpResponse("your plan cannot be looked up", status=503, headers={"Retry-After": "1"})
            return view(request)

        return gated

    return decorate


def metered(meter: str, amount: int = 1) -> Callable[[View], View]:
    """Return a decorator that counts a request's units; those that do not fit are answered 429, or 503 if not known."""

    def decorate(view: View) -> View:
        @wraps(view)
        def counting(request: HttpRequest) -> HttpResponse:
            try:
                counted = usage.consume(topic("tenant", request.COOKIES["tenant"]), meter, amount)
            except UsageUnavailable as error:
                counted = Counted(False, is_known=False, reason=str(error))
            if not counted.allowed:
                answer = denial(counted, meter, time.time(), amount)
                return HttpResponse(answer.body, status=answer.status, headers=answer.headers)
            response = view(request)
            for name, value in rate_limit_headers(counted, time.time()).items():
                response.headers[name] = value
            return response

        return counting

    return decorate
