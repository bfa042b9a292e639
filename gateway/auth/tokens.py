"""From a token's text to its claims, or why not: signature, time, audience, issuer, revocation. Pure, never raises.

The key decides which algorithm verifies, never the token: the header's `alg` is only compared with the key's. The
signature arithmetic is pyjwt's.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import jwt

from gateway.auth import compact_jwt
from gateway.auth.claims import AuthFailure, Claims, milliseconds_hint, read_claims
from gateway.auth.revocations import LOGIN, Revocation, Revocations
from gateway.auth.verify_keys import KeySet, VerifyKey

LEEWAY_S = 30.0
"""How far the issuer's clock may be from ours, either way: `nbf` and `iat` may be ahead by it, `exp` past by it."""

AHEAD_MAX = 4096
"""Tokens remembered whose `iat` is still ahead; beyond, the oldest is forgotten."""

_OF_TIME = frozenset(("token_not_yet_valid", "token_lifetime", "token_issued_ahead"))
"""The failures that a time in milliseconds leads to."""


class Auth:
    """Verifies tokens. One per process.

    Attributes:
        revocations: the revocations in force; filled from the store and the control channel.
        awaits_keys: a key set is configured and was not fetched yet.
        unknown_kids: number of tokens that named an unknown key id; a key set is fetched again when it rises.
    """

    def __init__(
        self,
        keys: KeySet,
        *,
        revocations: Revocations | None = None,
        audience: str = "",
        issuer: str = "",
        token_max_bytes: int = 8192,
        max_ttl_s: float = 2_592_000,
        cache_size: int = 4096,
        awaits_keys: bool = False,
        leeway_s: float = LEEWAY_S,
    ) -> None:
        """Verify with `keys`. The limits are those of the settings of the same names."""
        self.revocations = Revocations() if revocations is None else revocations
        self.awaits_keys = awaits_keys
        self.unknown_kids = 0
        self._audience = audience
        self._issuer = issuer
        self._token_max = token_max_bytes
        self._max_ttl_s = max_ttl_s
        self._cache_size = cache_size
        self._leeway_s = leeway_s
        self._ahead: dict[bytes, tuple[float, Claims]] = {}
        self._verified: dict[bytes, Claims] = {}
        self._keys = keys

    @property
    def keys(self) -> KeySet:
        """The keys in force."""
        return self._keys

    def replace_keys(self, keys: KeySet) -> None:
        """Verify with other keys from now on. Tokens that a withdrawn key has signed are checked again."""
        self._keys = keys
        self._verified.clear()

    def keys_fetched(self) -> None:
        """Note that the key set was fetched."""
        self.awaits_keys = False

    def verify(self, token: str, now: float) -> Claims | AuthFailure:
        """Return what `token` says at `now` (seconds since 1970), or why it is refused. Never raises."""
        if not token:
            return AuthFailure("token_missing")
        if len(token) > self._token_max:
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
            self._remember(digest, claims)
            if claims.iat > now:
                self._note_ahead(digest, claims, now)
        if claims.is_expired(now):
            return AuthFailure("token_expired")
        if self.revocations.is_revoked(claims):
            return AuthFailure("token_revoked")
        return claims

    def _remember(self, digest: bytes, claims: Claims) -> None:
        if not self._cache_size:
            return
        if len(self._verified) >= self._cache_size:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = claims

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
        parts = compact_jwt.split(data)
        # RFC 7515 section 4.1.11: a header extension that must be understood and is not makes the token invalid.
        if parts is None or "crit" in parts.header:
            return AuthFailure("token_malformed")
        keys = self._keys.find(parts.header.get("kid"), parts.header.get("alg"))
        if isinstance(keys, str):
            return AuthFailure(self._unfound(keys))
        if parts.signature is None:
            return AuthFailure("token_malformed")
        for signer in keys:
            if _is_signed(signer, parts.signed, parts.signature):
                break
        else:
            return AuthFailure("token_signature")
        payload = compact_jwt.decode_object(parts.payload)
        if payload is None:
            return AuthFailure("token_claims")
        claims = self._check_payload(payload, now, signer.issuer or self._issuer)
        if isinstance(claims, str):
            return AuthFailure(claims, milliseconds_hint(payload) if claims in _OF_TIME else "")
        return replace(claims, scope=(signer.scope,)) if signer.scope else claims

    def _unfound(self, code: str) -> str:
        if code == "token_key_unknown":
            self.unknown_kids += 1
        return "token_keys_unavailable" if self.awaits_keys and code != "token_malformed" else code

    def _check_payload(self, payload: dict[str, object], now: float, issuer: str) -> Claims | str:
        claims = read_claims(payload, self._leeway_s)
        if claims is None:
            return "token_claims"
        not_before = payload.get("nbf", 0)
        if isinstance(not_before, bool) or not isinstance(not_before, int | float):
            return "token_claims"
        if not_before > now + self._leeway_s:
            return "token_not_yet_valid"
        if claims.exp > now + self._max_ttl_s + self._leeway_s:
            return "token_lifetime"
        if claims.iat > now + self._leeway_s:
            return "token_issued_ahead"
        if issuer and payload.get("iss") != issuer:
            return "token_issuer"
        audience = payload.get("aud", ())
        audiences = (audience,) if isinstance(audience, str) else audience
        # RFC 7519 section 4.1.3: a token with an audience is refused by whoever is not in it.
        if (self._audience or audiences) and not (isinstance(audiences, list | tuple) and self._audience in audiences):
            return "token_audience"
        return claims


def _is_signed(key: VerifyKey, signed: bytes, signature: bytes) -> bool:
    try:
        return key.algorithm.verify(signed, key.key, signature)
    except (ValueError, TypeError, jwt.PyJWTError):
        return False
