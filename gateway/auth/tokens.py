"""Verifying tokens (signature, times, audience, issuer, revocation) and minting them. Pure.

The key determines the algorithm; the token's `alg` header must equal it. pyjwt verifies signatures. The compact JWS
(RFC 7515 section 3.1) is parsed here, at half the cost of pyjwt's parser. Parsing is strict: each token has exactly one
valid spelling.
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
    topics_hint,
)
from gateway.auth.revocations import LOGIN, Revocation, Revocations
from gateway.auth.verify_keys import HS256, KeySet, VerifyKey

_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_LAST_LETTERS = {2: b"AQgw", 3: b"AEIMQUYcgkosw048"}
"""Length of a partial last group of base64url -> letters it may end with. The unused bits must be zero."""

_COMPACT = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")

LEEWAY_S = 30.0
"""Tolerated clock difference: `nbf` and `iat` may be this far ahead, `exp` this far past."""

AHEAD_MAX = 4096
"""Maximum remembered tokens with an `iat` in the future; beyond it the oldest is removed."""

_OF_TIME = frozenset(("token_not_yet_valid", "token_lifetime", "token_issued_ahead"))
"""Failures that a time in milliseconds instead of seconds causes."""


@dataclass(eq=False)
class Auth:
    """Verifies tokens. One per process.

    Attributes:
        keys: the keys in force.
        revocations: the revocations in force.
        audience, issuer, token_max_bytes, max_ttl_s, cache_size, leeway_s: values of the settings.
        awaits_keys: whether a key set is configured but not fetched yet.
        unknown_kids: number of tokens with an unknown key id; a rise triggers a fetch of the key set.
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
        """Use newly fetched keys. All tokens are verified again, because a key may have been withdrawn."""
        self.keys = keys
        self.awaits_keys = False
        self._verified.clear()

    def verify(self, token: str, now: float) -> Claims | AuthFailure:
        """Return the claims of `token` at `now` (seconds since 1970), or why it is refused. Never raises."""
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
        """Return the revocation, its instant raised so that it covers every matching token seen here before it.

        If the issuer's clock is ahead, a token's `iat` can be later than a revocation made after it. Tokens with an
        `iat` in the future are remembered until it has passed. The instant is raised to the latest matching `iat`.

        Args:
            revocation: made just now. An older one would also cover tokens that were issued after it.
            now: seconds since 1970.
        """
        if revocation.kind == LOGIN:
            return revocation  # covers its tokens whatever their time of issue
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
        """Return the claims of a token that is not cached, or why it is refused. The signature is checked first."""
        match = _COMPACT.fullmatch(data)
        header = None if match is None else _decode_object(match[1])
        # RFC 7515 section 4.1.11: a token with an unsupported critical header extension is invalid. None is supported.
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
            hint = milliseconds_hint(payload) if claims in _OF_TIME else ""
            return AuthFailure(claims, hint or (topics_hint(payload) if claims == "token_claims" else ""))
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
        # RFC 7519 section 4.1.3: a recipient outside the token's audience must refuse it.
        if (self.audience or audiences) and not (isinstance(audiences, list | tuple) and self.audience in audiences):
            return "token_audience"
        return claims


def _is_signed(key: VerifyKey, signed: bytes, signature: bytes) -> bool:
    try:
        return key.algorithm.verify(signed, key.key, signature)
    except (ValueError, TypeError, jwt.PyJWTError):
        return False


def _decode_base64(data: bytes) -> bytes | None:
    """Return the decoded bytes of unpadded base64url (RFC 7515 section 2), or None if it is malformed.

    Each value has one spelling: unused bits of the last letter must be zero (RFC 4648 section 3.5).
    """
    last = _LAST_LETTERS.get(len(data) % 4)
    if last is not None and data[-1] not in last:
        return None
    try:
        return binascii.a2b_base64(data.translate(_FROM_URL_SAFE) + b"=" * (-len(data) % 4))
    except ValueError:
        return None


def _decode_object(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a segment, or None if it is not one."""
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
        TopicError: one of `topics` is neither a topic nor "*".
        ValueError: more than 64 topics, an unknown scope, or a lifetime of 0 or less.
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
