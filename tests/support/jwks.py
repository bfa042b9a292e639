"""An issuer's keys: a document of some of them, and tokens that one of them has signed."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

KEYS = {kid: ec.generate_private_key(ec.SECP256R1()) for kid in ("a", "b")}


def document(*kids: str) -> bytes:
    """The public parts of these keys, as an issuer publishes them."""
    keys: list[dict[str, Any]] = []
    for kid in kids:
        public: dict[str, Any] = ECAlgorithm.to_jwk(KEYS[kid].public_key(), as_dict=True)
        keys.append({**public, "kid": kid, "alg": "ES256"})
    return json.dumps({"keys": keys}).encode()


def signed(kid: str, *topics: str) -> str:
    """A token for `topics` that is good for five minutes."""
    payload = {"sub": "u1", "exp": time.time() + 300, "topics": topics}
    return jwt.encode(payload, KEYS[kid], algorithm="ES256", headers={"kid": kid})
