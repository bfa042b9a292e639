"""Keys that verify tokens. Each is pinned to one algorithm when it is loaded. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jwt.algorithms import Algorithm, HMACAlgorithm

HS256: Final = "HS256"

_HMAC = HMACAlgorithm(HMACAlgorithm.SHA256)

CANDIDATES_MAX = 4
"""Maximum keys tried for a token without a key id. It bounds the signature checks that one token can cause."""


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A key and the one algorithm it verifies.

    Attributes:
        kid: the key's id; empty for none.
        name: the algorithm's name, such as ES256.
        algorithm: pyjwt's implementation of the algorithm.
        key: the secret bytes or public key object for `algorithm`.
        issuer: required issuer of its tokens; empty: the issuer in the settings.
        scope: replaces the scopes of its tokens; empty: the token's own scopes.
    """

    kid: str
    name: str
    algorithm: Algorithm
    key: Any = field(repr=False)
    issuer: str = ""
    scope: str = ""


class KeySet:
    """Keys by key id and, for tokens without an id, by algorithm. Immutable."""

    __slots__ = ("_by_kid", "_by_name")

    def __init__(self, keys: Sequence[VerifyKey] = ()) -> None:
        self._by_kid = {key.kid: key for key in keys if key.kid}
        self._by_name: dict[str, list[VerifyKey]] = {}
        for key in keys:
            if not key.issuer:  # a key with an issuer is only for tokens with its id
                self._by_name.setdefault(key.name, []).append(key)

    def find(self, kid: object, name: object) -> Sequence[VerifyKey] | str:
        """Return the keys that may verify a token, or a failure code.

        Args:
            kid: the header's `kid`.
            name: the header's `alg`.
        """
        if not isinstance(name, str):
            return "token_malformed"
        named = self._by_kid.get(kid) if isinstance(kid, str) else None
        if named is not None:
            return (named,) if named.name == name else "token_algorithm"
        # Shared secrets have no id, so the `kid` of an HS256 token is ignored. Key sets have no HS256 keys.
        if kid is not None and name != HS256:
            return "token_key_unknown"
        return self._by_name.get(name, ())[:CANDIDATES_MAX] or "token_algorithm"


def secret_keys(secrets: Iterable[str]) -> list[VerifyKey]:
    """Return the HS256 keys of shared secrets, in order."""
    return [pinned_key("", secret) for secret in secrets]


def pinned_key(kid: str, secret: str | bytes, issuer: str = "", scope: str = "") -> VerifyKey:
    """Return an HS256 key for the gateway's own tokens, restricted to this key id, issuer and scope."""
    return VerifyKey(kid, HS256, _HMAC, _HMAC.prepare_key(secret), issuer, scope)
