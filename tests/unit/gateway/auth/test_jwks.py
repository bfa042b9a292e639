"""Which keys of a key set are usable, and for which one algorithm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.auth.jwks import KEYS_MAX, JwksError, parse_keys
from gateway.settings import ASYMMETRIC_ALGORITHMS

RSA: dict[str, Any] = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048).public_key(), as_dict=True)
P256: dict[str, Any] = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
P384: dict[str, Any] = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)
ED: dict[str, Any] = OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate().public_key(), as_dict=True)


def names(*keys: object) -> list[str]:
    return [key.name for key in parse_keys(json.dumps({"keys": keys}).encode(), ASYMMETRIC_ALGORITHMS)]


@pytest.mark.parametrize(("jwk", "name"), [(RSA, "RS256"), (P256, "ES256"), (P384, "ES384"), (ED, "EdDSA")])
def test_a_key_is_pinned_by_its_type_and_curve(jwk: dict[str, Any], name: str) -> None:
    bare = {member: value for member, value in jwk.items() if member not in ("alg", "key_ops")}
    assert names(bare) == [name]


def test_a_key_may_say_its_algorithm() -> None:
    assert names({**RSA, "alg": "PS512"}, {**P256, "alg": "ES256"}) == ["PS512", "ES256"]


@pytest.mark.parametrize(
    "jwk",
    [
        {**RSA, "alg": "ES256"}, {**P256, "alg": "ES384"}, {**RSA, "alg": "HS256"}, {**RSA, "alg": "none"},
        {**RSA, "alg": 5}, {**RSA, "use": "enc"}, {**RSA, "key_ops": ["encrypt"]}, {**RSA, "key_ops": "verify"},
        {**RSA, "kid": 5}, {**RSA, "kid": "x" * 257}, {**RSA, "n": "!"}, {**RSA, "n": None},
        {**P256, "crv": "P-384"}, {**P256, "crv": "secp256k1"}, {**P256, "crv": ["P-256"]}, {**P256, "x": "AA"},
        {"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY", "alg": "HS256"},
        {"kty": ["RSA"]}, {}, 5, None, "x",
    ],
)  # fmt: skip
def test_unusable_keys_are_left_out(jwk: object) -> None:
    assert names(jwk, ED) == ["EdDSA"]


def test_short_rsa_keys_are_left_out() -> None:
    short: dict[str, Any] = RSAAlgorithm.to_jwk(
        rsa.generate_private_key(65537, 1024).public_key(),
        as_dict=True,
    )
    assert names(short, ED) == ["EdDSA"]


def test_only_allowed_algorithms_count() -> None:
    document = json.dumps({"keys": [{**RSA, "kid": "a"}, {**P256, "kid": "b"}]}).encode()
    assert [key.kid for key in parse_keys(document, ("ES256",))] == ["b"]


def test_private_members_are_not_kept() -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    jwk: dict[str, Any] = OKPAlgorithm.to_jwk(private, as_dict=True)
    assert "d" in jwk
    (key,) = parse_keys(json.dumps({"keys": [jwk]}).encode(), ("EdDSA",))
    assert isinstance(key.key, ed25519.Ed25519PublicKey)


@pytest.mark.parametrize(
    "document", [b"", b"{", b"[]", b"5", b"{}", b'{"keys":{}}', b'{"keys":[]}', b'{"keys":[{"kty":"oct"}]}']
)
def test_what_is_no_key_set(document: bytes) -> None:
    with pytest.raises(JwksError):
        parse_keys(document, ASYMMETRIC_ALGORITHMS)


def test_a_huge_set_is_cut() -> None:
    assert len(names(*[ED] * (KEYS_MAX + 10))) == KEYS_MAX
