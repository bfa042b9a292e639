"""Signs tokens: for the command line, the demo and tests. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import jwt

from gateway.auth.claims import DEFAULT_SCOPE, SCOPES, TOPICS_MAX, check_topics
from gateway.auth.verify_keys import HS256


def mint(
    secret: str,
    *,
    topics: Sequence[str],
    now: float,
    ttl_s: float,
    sub: str = "cli",
    scope: Sequence[str] = DEFAULT_SCOPE,
    jti: str = "",
) -> str:
    """Return an HS256 token for `sub` on `topics`, valid from `now` (seconds since 1970) for `ttl_s` seconds.

    Raises:
        TopicError: one of `topics` is no topic and not "*".
        ValueError: no topic or more than 64, an unknown scope, or a lifetime of nothing.
    """
    check_topics(topics)
    if len(topics) > TOPICS_MAX:
        raise ValueError(f"a token names at most {TOPICS_MAX} topics")
    unknown = [one for one in scope if one not in SCOPES]
    if unknown:
        raise ValueError(f"scope {unknown[0]!r} is not one of {', '.join(SCOPES)}")
    if ttl_s <= 0:
        raise ValueError("the lifetime must be above 0 seconds")
    payload: dict[str, object] = {
        "sub": sub,
        "iat": int(now),
        "exp": int(now + ttl_s),
        "topics": list(topics),
        "scope": list(scope),
    }
    if jti:
        payload["jti"] = jti
    return jwt.encode(payload, secret, algorithm=HS256)
