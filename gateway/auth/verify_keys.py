"""The keys that tokens are verified with. Each is pinned to one algorithm when it is loaded. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jwt.algorithms import Algorithm, HMACAlgorithm

HS256: Final = "HS256"

_HMAC = HMACAlgorithm(HMACAlgorithm.SHA256)

CANDIDATES_MAX = 4
"""Keys tried for a token without a key id. More would let one token cost many signature checks."""


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A key and the one algorithm it verifies.

    Attributes:
        kid: its id; empty for none.
        name: the algorithm's name, such as ES256.
        algorithm: pyjwt's implementation of it.
        key: what that takes: secret bytes or a public key object.
        issuer: the only issuer of its tokens, instead of the one in the settings; empty: that one.
        scope: the one scope of its tokens, instead of those in the token; empty: those.
    """

    kid: str
    name: str
    algorithm: Algorithm
    key: Any = field(repr=False)
    issuer: str = ""
    scope: str = ""


class KeySet:
    """Keys by key id or, for tokens without one, by algorithm. Immutable."""

    __slots__ = ("_by_kid", "_by_name")

    def __init__(self, keys: Sequence[VerifyKey] = ()) -> None:
        self._by_kid = {key.kid: key for key in keys if key.kid}
        self._by_name: dict[str, list[VerifyKey]] = {}
        for key in keys:
            if not key.issuer:  # one with an issuer is only for tokens that name its id
                self._by_name.setdefault(key.name, []).append(key)

    def find(self, kid: object, name: object) -> Sequence[VerifyKey] | str:
        """Return the keys that may verify a token whose header has this `kid` and `alg`, or a failure's code."""
        if not isinstance(name, str):
            return "token_malformed"
        named = self._by_kid.get(kid) if isinstance(kid, str) else None
        if named is not None:
            return (named,) if named.name == name else "token_algorithm"
        # Shared secrets have no id, so a token's id is ignored for them. A key set never holds an HS256 key.
        if kid is not None and name != HS256:
            return "token_key_unknown"
        return self._by_name.get(name, ())[:CANDIDATES_MAX] or "token_algorithm"


def secret_keys(secrets: Iterable[str]) -> list[VerifyKey]:
    """Return the HS256 keys of shared secrets, in order."""
    return [pinned_key("", secret) for secret in secrets]


def pinned_key(kid: str, secret: str | bytes, issuer: str = "", scope: str = "") -> VerifyKey:
    """Return an HS256 key of our own, for tokens that name it and its issuer; they get that one scope."""
    return VerifyKey(kid, HS256, _HMAC, _HMAC.prepare_key(secret), issuer, scope)
