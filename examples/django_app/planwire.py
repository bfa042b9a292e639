"""The project's one replica, the decorator that gates views, and tokens. The replica connects on its first wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps

import jwt
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from planwire_client import FeatureDenied, NotCurrent, ThreadReplica, read_version, topic

TOKEN_S = 600

View = Callable[[HttpRequest], HttpResponse]


def mint(sub: str, topics: list[str]) -> str:
    """Return a token that lets `sub` read `topics` for ten minutes."""
    claims = {"sub": sub, "topics": topics, "exp": int(time.time()) + TOKEN_S}
    return jwt.encode(claims, settings.PLANWIRE_JWT_SECRET, algorithm="HS256")


replica = ThreadReplica(settings.PLANWIRE_URL, lambda: mint("django-app", ["*"]))


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
