"""From a token's text to its claims, or why not: signature, time, audience, issuer, revocation; and minting. Pure.

The key decides which algorithm verifies, never the token: the header's `alg` is only compared with the key's. The
signature arithmetic is pyjwt's. A compact JWS (RFC 7515 section 3.1) is taken apart here, strictly, because that costs
half of what pyjwt's envelope does: each token has exactly one spelling.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jwt
import orjson

from gateway.auth.claims import (
    DEFAULT_SCOPE,
    SCOPES,
    TOPICS_MAX,
    AuthFailure,
    Claims,
    check_topics,
    milliseconds_hint,
    read_claims,
)
from gateway.auth.revocations import LOGIN, Revocation, Revocations
from gateway.auth.verify_keys import HS256, KeySet, VerifyKey

_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_LAST_LETTERS = {2: b"AQgw", 3: b"AEIMQUYcgkosw048"}
"""By the length of a last group of base64url: the letters it may end with, because the bits left over are zero."""

_COMPACT = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")

LEEWAY_S = 30.0
"""How far the issuer's clock may be from ours, either way: `nbf` and `iat` may be ahead by it, `exp` past by it."""

AHEAD_MAX = 4096
"""Tokens remembered whose `iat` is still ahead; beyond, the oldest is forgotten."""

_OF_TIME = frozenset(("token_not_yet_valid", "token_lifetime", "token_issued_ahead"))
"""The failures that a time in milliseconds leads to."""


@dataclass(eq=False)
class Auth:
    """Verifies tokens. One per process.

    Attributes:
        keys: the keys in force.
        revocations: the revocations in force; filled from the store and the control channel.
        audience, issuer, token_max_bytes, max_ttl_s, cache_size, leeway_s: the settings of these names.
        awaits_keys: a key set is configured and was not fetched yet.
        unknown_kids: number of tokens that named an unknown key id; a key set is fetched again when it rises.
    """

    keys: KeySet
    revocations: Revocations = field(default_factory=Revocations)
    audience: str = ""
    issuer: str = ""
    token_max_bytes: int = 8192
    max_ttl_s: float = 2_592_000
    cache_size: int = 4096
    awaits_keys: bool = False
    leeway_s: float = LEEWAY_S
    unknown_kids: int = field(default=0, init=False)
    _ahead: dict[bytes, tuple[float, Claims]] = field(default_factory=dict, init=False)
    _verified: dict[bytes, Claims] = field(default_factory=dict, init=False)

    def replace_keys(self, keys: KeySet) -> None:
        """Verify with these keys, which were fetched. Tokens that a withdrawn key has signed are checked again."""
        self.keys = keys
        self.awaits_keys = False
        self._verified.clear()

    def verify(self, token: str, now: float) -> Claims | AuthFailure:
        """Return what `token` says at `now` (seconds since 1970), or why it is refused. Never raises."""
        if not token:
            return AuthFailure("token_missing")
        if len(token) > self.token_max_bytes:
            return AuthFailure("token_too_large")
        try:
            data = token.encode("ascii")
        except UnicodeEncodeError:
            return AuthFailure("token_malformed")
        digest = hashlib.sha256(data).digest()
        claims = self._verified.get(digest)
        if claims is None:
            found = self._check(data, now)
            if isinstance(found, AuthFailure):
                return found
            claims = found
            if self.cache_size:
                if len(self._verified) >= self.cache_size:
                    del self._verified[next(iter(self._verified))]
                self._verified[digest] = claims
            if claims.iat > now:
                self._note_ahead(digest, claims, now)
        if claims.is_expired(now):
            return AuthFailure("token_expired")
        if self.revocations.is_revoked(claims):
            return AuthFailure("token_revoked")
        return claims

    def covering(self, revocation: Revocation, now: float) -> Revocation:
        """Return the revocation with an instant that covers every matching token that was seen here before it.

        An issuer whose clock is ahead writes an `iat` that is later than a revocation of the same moment. Tokens with
        such an `iat` are remembered until it has passed; the instant is raised to the latest of those that match.

        Args:
            revocation: one that was made just now; an older one would be raised over tokens that were issued after it.
            now: seconds since 1970.
        """
        if revocation.kind == LOGIN:
            return revocation  # it covers them whenever they were issued
        self._forget_passed(now)
        matching = (
            claims.iat for seen, claims in self._ahead.values() if seen <= revocation.at and revocation.matches(claims)
        )
        latest = max(matching, default=0.0)
        return replace(revocation, at=latest) if latest > revocation.at else revocation

    def _note_ahead(self, digest: bytes, claims: Claims, now: float) -> None:
        if len(self._ahead) >= AHEAD_MAX:
            self._forget_passed(now)
        if len(self._ahead) >= AHEAD_MAX:
            del self._ahead[next(iter(self._ahead))]
        self._ahead.setdefault(digest, (now, claims))

    def _forget_passed(self, now: float) -> None:
        self._ahead = {digest: (seen, claims) for digest, (seen, claims) in self._ahead.items() if claims.iat > now}

    def _check(self, data: bytes, now: float) -> Claims | AuthFailure:
        """Return the claims of a token not seen before, or why it is refused. Signature first, contents after."""
        match = _COMPACT.fullmatch(data)
        header = None if match is None else _decode_object(match[1])
        # RFC 7515 section 4.1.11: a header extension that must be understood and is not makes the token invalid.
        if match is None or header is None or "crit" in header:
            return AuthFailure("token_malformed")
        keys = self.keys.find(header.get("kid"), header.get("alg"))
        if isinstance(keys, str):
            self.unknown_kids += keys == "token_key_unknown"
            is_too_early = self.awaits_keys and keys != "token_malformed"
            return AuthFailure("token_keys_unavailable" if is_too_early else keys)
        signature = _decode_base64(match[3])
        if signature is None:
            return AuthFailure("token_malformed")
        signer = next((key for key in keys if _is_signed(key, data[: match.end(2)], signature)), None)
        if signer is None:
            return AuthFailure("token_signature")
        payload = _decode_object(match[2])
        if payload is None:
            return AuthFailure("token_claims")
        claims = self._check_payload(payload, now, signer.issuer or self.issuer)
        if isinstance(claims, str):
            return AuthFailure(claims, milliseconds_hint(payload) if claims in _OF_TIME else "")
        return replace(claims, scope=(signer.scope,)) if signer.scope else claims

    def _check_payload(self, payload: Mapping[str, Any], now: float, issuer: str) -> Claims | str:
        claims = read_claims(payload, self.leeway_s)
        if claims is None:
            return "token_claims"
        if payload.get("nbf", 0) > now + self.leeway_s:
            return "token_not_yet_valid"
        if claims.exp > now + self.max_ttl_s + self.leeway_s:
            return "token_lifetime"
        if claims.iat > now + self.leeway_s:
            return "token_issued_ahead"
        if issuer and payload.get("iss") != issuer:
            return "token_issuer"
        audience = payload.get("aud", ())
        audiences = (audience,) if isinstance(audience, str) else audience
        # RFC 7519 section 4.1.3: a token with an audience is refused by whoever is not in it.
        if (self.audience or audiences) and not (isinstance(audiences, list | tuple) and self.audience in audiences):
            return "token_audience"
        return claims


def _is_signed(key: VerifyKey, signed: bytes, signature: bytes) -> bool:
    try:
        return key.algorithm.verify(signed, key.key, signature)
    except (ValueError, TypeError, jwt.PyJWTError):
        return False


def _decode_base64(data: bytes) -> bytes | None:
    """Return what unpadded base64url (RFC 7515 section 2) stands for, or None for an impossible length.

    Each value has one spelling: bits that the last letter has left over must be zero (RFC 4648 section 3.5).
    """
    last = _LAST_LETTERS.get(len(data) % 4)
    if last is not None and data[-1] not in last:
        return None
    try:
        return binascii.a2b_base64(data.translate(_FROM_URL_SAFE) + b"=" * (-len(data) % 4))
    except ValueError:
        return None


def _decode_object(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a segment, or None if it holds none."""
    decoded = _decode_base64(data)
    if decoded is None:
        return None
    try:
        value = orjson.loads(decoded)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


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
