"""Tokens are believed only when their key, its one algorithm, the time and every claim say so."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, strategies as st
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.auth.claims import MESSAGES, AuthFailure, Claims
from gateway.auth.jwks import parse_keys
from gateway.auth.revocations import Revocation, Revocations
from gateway.auth.tokens import Auth, mint
from gateway.auth.verify_keys import KeySet, VerifyKey, secret_keys
from planwire_client.core.topic import TopicError

SECRET = "0123456789abcdef0123456789abcdef"
NOW = 1_800_000_000.0
PAYLOAD: dict[str, Any] = {"sub": "u1", "exp": NOW + 60, "topics": ["tenant:acme"]}

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
KEYS: dict[str, Any] = {"RS256": RSA_KEY, "PS256": RSA_KEY, "ES256": EC_KEY, "EdDSA": ED_KEY}


def public_jwk(name: str, kid: str = "") -> dict[str, Any]:
    key = KEYS[name].public_key()
    algorithms: dict[str, Any] = {
        "RS256": RSAAlgorithm,
        "PS256": RSAAlgorithm,
        "ES256": ECAlgorithm,
        "EdDSA": OKPAlgorithm,
    }
    jwk: dict[str, Any] = algorithms[name].to_jwk(key, as_dict=True)
    return {**jwk, "alg": name, **({"kid": kid} if kid else {})}


def public_keys(*names: str) -> tuple[VerifyKey, ...]:
    document = {"keys": [public_jwk(name, f"kid-{name}") for name in names]}
    return parse_keys(json.dumps(document).encode(), tuple(KEYS))


def key_set(*names: str) -> KeySet:
    return KeySet(public_keys(*names))


def auth(keys: KeySet | None = None, **options: Any) -> Auth:
    return Auth(KeySet(secret_keys([SECRET])) if keys is None else keys, **options)


def signed(payload: dict[str, Any] | None = None, key: Any = SECRET, name: str = "HS256", **header: Any) -> str:
    return jwt.encode(PAYLOAD if payload is None else payload, key, algorithm=name, headers=header or None)


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def code_of(outcome: Claims | AuthFailure) -> str:
    assert isinstance(outcome, AuthFailure), outcome
    return outcome.code


def test_a_good_token_gives_its_claims() -> None:
    assert auth().verify(signed(), NOW) == Claims("u1", NOW + 60, ("tenant:acme",))


@pytest.mark.parametrize("name", KEYS)
def test_asymmetric_tokens_verify_by_key_id_and_without_one(name: str) -> None:
    verifier = auth(key_set(name))
    assert isinstance(verifier.verify(signed(key=KEYS[name], name=name, kid=f"kid-{name}"), NOW), Claims)
    assert isinstance(verifier.verify(signed(key=KEYS[name], name=name), NOW), Claims)


def test_a_public_key_is_no_shared_secret() -> None:
    """The classic confusion: an HS256 token whose secret is the text of the public key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    forged_head = f"{part({'alg': 'HS256', 'kid': 'kid-RS256'})}.{part(PAYLOAD)}"
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(forged_head.encode(), pem)
    forged = f"{forged_head}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert code_of(auth(key_set("RS256")).verify(forged, NOW)) == "token_algorithm"
    both = KeySet([*secret_keys([SECRET]), *public_keys("RS256")])
    assert code_of(auth(both).verify(forged, NOW)) == "token_algorithm"


def test_a_key_verifies_its_own_algorithm_only() -> None:
    token = signed(key=RSA_KEY, name="PS256", kid="kid-RS256")
    assert code_of(auth(key_set("RS256")).verify(token, NOW)) == "token_algorithm"


@pytest.mark.parametrize("name", ["none", "None", "", None, 5, ["HS256"], {"a": 1}])
def test_no_algorithm_means_no_token(name: object) -> None:
    for signature in ("", "c2ln"):
        token = f"{part({'alg': name})}.{part(PAYLOAD)}.{signature}"
        assert code_of(auth().verify(token, NOW)) in ("token_algorithm", "token_malformed")


def test_an_unknown_key_id_is_told_and_counted() -> None:
    verifier = auth(key_set("ES256"))
    assert code_of(verifier.verify(signed(key=EC_KEY, name="ES256", kid="other"), NOW)) == "token_key_unknown"
    assert verifier.unknown_kids == 1


def test_the_shared_secret_verifies_beside_a_key_set() -> None:
    both = KeySet([*secret_keys([SECRET]), *public_keys("ES256")])
    assert isinstance(auth(both).verify(signed(kid="whatever"), NOW), Claims)
    assert isinstance(auth(both).verify(signed(key=EC_KEY, name="ES256", kid="kid-ES256"), NOW), Claims)


def test_an_old_secret_verifies_while_it_is_listed() -> None:
    new = SECRET[::-1]
    assert isinstance(auth(KeySet(secret_keys([new, SECRET]))).verify(signed(), NOW), Claims)
    assert code_of(auth(KeySet(secret_keys([new]))).verify(signed(), NOW)) == "token_signature"


def test_until_the_key_set_was_read_the_answer_says_so() -> None:
    token = signed(key=EC_KEY, name="ES256")
    assert code_of(auth(KeySet(), awaits_keys=True).verify(token, NOW)) == "token_keys_unavailable"


def test_a_withdrawn_key_verifies_nothing_more_not_even_what_it_did_before() -> None:
    verifier = auth(key_set("ES256"))
    token = signed(key=EC_KEY, name="ES256", kid="kid-ES256")
    assert isinstance(verifier.verify(token, NOW), Claims)
    verifier.replace_keys(key_set("EdDSA"))
    assert code_of(verifier.verify(token, NOW)) == "token_key_unknown"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"exp": NOW - 30}, "token_expired"),
        ({"exp": NOW - 31}, "token_expired"),
        ({"exp": None}, "token_claims"),
        ({"exp": NOW + 2_592_100}, "token_lifetime"),
        ({"nbf": NOW + 31}, "token_not_yet_valid"),
        ({"iat": NOW + 31}, "token_issued_ahead"),
        ({"nbf": "later"}, "token_claims"),
        ({"sub": ""}, "token_claims"),
        ({"topics": ["nonsense"]}, "token_claims"),
        ({"aud": "other"}, "token_audience"),
        ({"aud": ["other"]}, "token_audience"),
        ({"aud": {"planwire": 1}}, "token_audience"),
    ],
)
def test_what_makes_a_token_refused(change: dict[str, Any], code: str) -> None:
    assert code_of(auth().verify(signed({**PAYLOAD, **change}), NOW)) == code


@pytest.mark.parametrize("change", [{"nbf": NOW + 29}, {"iat": NOW + 29}, {"exp": NOW - 29}])
def test_a_clock_that_is_a_little_off_is_forgiven_both_ways(change: dict[str, Any]) -> None:
    token = signed({**PAYLOAD, **change})
    assert isinstance(auth().verify(token, NOW), Claims)
    assert isinstance(auth(leeway_s=0).verify(token, NOW), AuthFailure)


def test_the_end_of_a_token_is_its_expiry_and_the_leeway() -> None:
    claims = auth(leeway_s=7).verify(signed(), NOW)
    assert isinstance(claims, Claims)
    assert (claims.exp, claims.ends_at) == (NOW + 60, NOW + 67)
    assert not claims.is_expired(NOW + 66.9)
    assert claims.is_expired(NOW + 67)


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"exp": (NOW + 60) * 1000}, "token_lifetime", "exp looks like milliseconds"),
        ({"iat": NOW * 1000}, "token_issued_ahead", "iat looks like milliseconds"),
        ({"nbf": NOW * 1000}, "token_not_yet_valid", "nbf looks like milliseconds"),
        ({"exp": (NOW + 60) * 1000, "iat": NOW * 1000}, "token_lifetime", "exp/iat look like milliseconds"),
    ],
)
def test_milliseconds_are_named(change: dict[str, Any], code: str, named: str) -> None:
    failure = auth().verify(signed({**PAYLOAD, **change}), NOW)
    assert isinstance(failure, AuthFailure)
    assert failure.code == code
    assert failure.message.endswith(f"; {named}, JWT wants seconds")


def test_seconds_that_are_wrong_are_not_called_milliseconds() -> None:
    for change in ({"exp": NOW + 10**8}, {"iat": NOW + 10**8}, {"nbf": NOW + 10**8}):
        failure = auth().verify(signed({**PAYLOAD, **change}), NOW)
        assert isinstance(failure, AuthFailure)
        assert failure.message == MESSAGES[failure.code]


class TestAhead:
    """Revoking tokens of an issuer whose clock is ahead: their iat is later than the revocation."""

    TOKEN = signed({**PAYLOAD, "iat": NOW + 20, "jti": "t1"})

    @pytest.mark.parametrize(
        "revocation",
        [
            Revocation("sub", "u1", NOW + 1),
            Revocation("topic", "tenant:acme", NOW + 1),
            Revocation("sub_topic", "tenant:acme u1", NOW + 1),
        ],
    )
    def test_a_token_seen_before_is_covered(self, revocation: Revocation) -> None:
        verifier = auth()
        assert isinstance(verifier.verify(self.TOKEN, NOW), Claims)
        raised = verifier.covering(revocation, NOW + 1)
        assert raised.at == NOW + 20
        verifier.revocations.revoke(raised.kind, raised.value, raised.at)
        for now in (NOW + 1, NOW + 30):
            claims = verifier.verify(self.TOKEN, now)
            assert isinstance(claims, AuthFailure) or verifier.revocations.is_revoked(claims, "tenant:acme")

    @pytest.mark.parametrize(
        "revocation",
        [
            Revocation("sub", "u2", NOW + 1),
            Revocation("topic", "tenant:other", NOW + 1),
            Revocation("sub_topic", "tenant:acme u2", NOW + 1),
            Revocation("sub", "u1", NOW - 1),
            # The end of a login counts whatever its tokens' iat, and is kept apart.
            Revocation("login", "t1", NOW + 1),
        ],
    )
    def test_others_tokens_and_those_seen_after_raise_nothing(self, revocation: Revocation) -> None:
        verifier = auth()
        assert isinstance(verifier.verify(self.TOKEN, NOW), Claims)
        assert verifier.covering(revocation, NOW + 1) == revocation

    def test_once_the_iat_has_passed_nothing_is_kept(self) -> None:
        verifier = auth()
        assert isinstance(verifier.verify(self.TOKEN, NOW), Claims)
        revocation = Revocation("sub", "u1", NOW + 21)
        assert verifier.covering(revocation, NOW + 21) == revocation
        assert verifier._ahead == {}

    def test_what_is_kept_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.auth.tokens.AHEAD_MAX", 3)
        verifier = auth()
        for number in range(10):
            verifier.verify(signed({**PAYLOAD, "iat": NOW + 20, "jti": str(number)}), NOW)
        assert len(verifier._ahead) == 3


def test_audience_and_issuer_are_demanded_where_set() -> None:
    verifier = auth(audience="planwire", issuer="https://issuer")
    for audience in ("planwire", ["x", "planwire"]):
        good = {**PAYLOAD, "aud": audience, "iss": "https://issuer"}
        assert isinstance(verifier.verify(signed(good), NOW), Claims)
    assert code_of(verifier.verify(signed({**PAYLOAD, "iss": "https://issuer"}), NOW)) == "token_audience"
    assert code_of(verifier.verify(signed({**PAYLOAD, "aud": "planwire"}), NOW)) == "token_issuer"


def test_a_remembered_token_still_ends_and_is_still_revoked() -> None:
    verifier = auth()
    token = signed({**PAYLOAD, "iat": NOW - 5})
    assert isinstance(verifier.verify(token, NOW), Claims)
    assert code_of(verifier.verify(token, NOW + 90)) == "token_expired"
    verifier.revocations.revoke("sub", "u1", NOW)
    assert code_of(verifier.verify(token, NOW + 1)) == "token_revoked"


def test_the_memory_of_tokens_is_bounded() -> None:
    verifier = auth(cache_size=3)
    for number in range(10):
        verifier.verify(signed({**PAYLOAD, "jti": str(number)}), NOW)
    assert len(verifier._verified) == 3


def test_a_wrong_signature_is_never_remembered_as_right() -> None:
    verifier = auth()
    good = signed()
    head, body, signature = good.split(".")
    assert isinstance(verifier.verify(good, NOW), Claims)
    forged = f"{head}.{part({**PAYLOAD, 'topics': ['*']})}.{signature}"
    assert code_of(verifier.verify(forged, NOW)) == "token_signature"
    assert code_of(verifier.verify(f"{head}.{body}.", NOW)) == "token_signature"


@pytest.mark.parametrize(
    "token",
    ["a", "a.b", "a.b.c.d", "..", " ", "é.b.c", "\ud800", "a b.c.d", signed() + "\n", "=." + signed(), "a.b.c="],
)
def test_what_is_no_token_is_malformed(token: str) -> None:
    assert code_of(auth().verify(token, NOW)) == "token_malformed"


def test_none_and_too_much_have_their_own_codes() -> None:
    assert code_of(auth().verify("", NOW)) == "token_missing"
    assert code_of(auth().verify("a" * 8193, NOW)) == "token_too_large"


def test_critical_header_extensions_are_refused() -> None:
    assert code_of(auth().verify(signed(crit=["exp"]), NOW)) == "token_malformed"


@pytest.mark.parametrize("header", ["[]", "5", "null", "{", '"x"'])
def test_headers_that_are_no_object_are_malformed(header: str) -> None:
    encoded = base64.urlsafe_b64encode(header.encode()).rstrip(b"=").decode()
    assert code_of(auth().verify(f"{encoded}.{part(PAYLOAD)}.c2ln", NOW)) == "token_malformed"


@pytest.mark.parametrize("payload", ["[]", "5", "null", "{"])
def test_signed_nonsense_is_refused_by_its_claims(payload: str) -> None:
    body = base64.urlsafe_b64encode(payload.encode()).rstrip(b"=").decode()
    head = f"{part({'alg': 'HS256'})}.{body}"
    signature = (
        base64.urlsafe_b64encode(HMACAlgorithm(HMACAlgorithm.SHA256).sign(head.encode(), SECRET.encode()))
        .rstrip(b"=")
        .decode()
    )
    assert code_of(auth().verify(f"{head}.{signature}", NOW)) == "token_claims"


@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda raw: raw.decode("latin-1")))
def test_no_text_makes_it_raise(text: str) -> None:
    assert code_of(auth().verify(text, NOW)) in MESSAGES


@given(st.data())
def test_any_change_of_a_character_is_noticed(data: st.DataObject) -> None:
    token = signed({**PAYLOAD, "jti": data.draw(st.sampled_from(["", "a", "ab"]))})
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."))
    changed = token[:place] + letter + token[place + 1 :]
    outcome = auth().verify(changed, NOW)
    if changed != token:
        code_of(outcome)


def test_a_token_has_one_spelling() -> None:
    """The last letter of a signature has bits left over: other ones decode to the same bytes."""
    token = signed()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    good = [letter for letter in alphabet if isinstance(auth().verify(token[:-1] + letter, NOW), Claims)]
    assert good == [token[-1]]
    assert (
        sum(
            base64.urlsafe_b64decode(token.rpartition(".")[2][:-1] + letter + "=")
            == base64.urlsafe_b64decode(token.rpartition(".")[2] + "=")
            for letter in alphabet
        )
        == 4
    )


def test_revocations_are_shared_with_whoever_fills_them() -> None:
    shared = Revocations()
    verifier = auth(revocations=shared)
    shared.revoke("jti", "t1", NOW)
    assert code_of(verifier.verify(signed({**PAYLOAD, "jti": "t1"}), NOW)) == "token_revoked"
    assert isinstance(verifier.verify(signed({**PAYLOAD, "jti": "t2"}), NOW), Claims)


def test_minted_tokens_verify() -> None:
    token = mint(SECRET, topics=["*"], now=NOW, ttl_s=10, sub="me", scope=["read", "private"], jti="j")
    assert auth().verify(token, NOW) == Claims("me", NOW + 10, ("*",), ("read", "private"), "j", NOW)


def test_what_cannot_be_minted() -> None:
    with pytest.raises(TopicError):
        mint(SECRET, topics=["nope"], now=NOW, ttl_s=10)
    with pytest.raises(ValueError, match="at most 64"):
        mint(SECRET, topics=[f"t:{n}" for n in range(65)], now=NOW, ttl_s=10)
    with pytest.raises(ValueError, match="scope 'write'"):
        mint(SECRET, topics=["*"], now=NOW, ttl_s=10, scope=["write"])
    with pytest.raises(ValueError, match="lifetime"):
        mint(SECRET, topics=["*"], now=NOW, ttl_s=0)


def test_verifying_is_quick() -> None:
    """The bound is loose for busy machines; typical is 10 us unseen, 1 us seen before."""
    verifier = auth(cache_size=0)
    token = signed()
    best = min(_timed(verifier, token) for _ in range(5))
    assert best < 100e-6


def _timed(verifier: Auth, token: str) -> float:
    started = time.thread_time()
    for _ in range(200):
        verifier.verify(token, NOW)
    return (time.thread_time() - started) / 200
