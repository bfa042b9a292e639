"""Which keys may verify a token whose header has this key id and algorithm."""

from __future__ import annotations

import pytest

from gateway.auth.verify_keys import CANDIDATES_MAX, HS256, KeySet, VerifyKey, pinned_key, secret_keys

SECRETS = [f"{number}" * 32 for number in range(CANDIDATES_MAX + 2)]
CONSOLE = pinned_key("console-1", b"k" * 32, "planwire-console", "console")


def named(kid: str, name: str) -> VerifyKey:
    return VerifyKey(kid, name, CONSOLE.algorithm, b"")


KEYS = KeySet([*secret_keys(SECRETS[:2]), CONSOLE, named("a", "ES256"), named("b", "RS256"), named("", "EdDSA")])


@pytest.mark.parametrize(
    ("kid", "name", "found"),
    [
        ("a", "ES256", ["a"]),
        (None, "ES256", ["a"]),
        (None, "EdDSA", [""]),
        (None, HS256, ["", ""]),
        ("whatever", HS256, ["", ""]),
        ("console-1", HS256, ["console-1"]),
        ("a", "RS256", "token_algorithm"),
        ("a", HS256, "token_algorithm"),
        (None, "PS256", "token_algorithm"),
        ("c", "ES256", "token_key_unknown"),
        (5, "ES256", "token_key_unknown"),
        ("a", None, "token_malformed"),
        ("a", ["ES256"], "token_malformed"),
    ],
)
def test_a_key_is_found_by_its_id_or_without_one_by_its_algorithm(
    kid: object, name: object, found: list[str] | str
) -> None:
    keys = KEYS.find(kid, name)
    assert (keys if isinstance(keys, str) else [key.kid for key in keys]) == found


def test_a_pinned_key_is_for_tokens_that_name_it() -> None:
    keys = KEYS.find(None, HS256)
    assert not isinstance(keys, str)
    assert CONSOLE not in keys
    assert (CONSOLE.issuer, CONSOLE.scope) == ("planwire-console", "console")


def test_a_token_without_a_key_id_costs_a_bounded_number_of_checks() -> None:
    assert len(KeySet(secret_keys(SECRETS)).find(None, HS256)) == CANDIDATES_MAX


def test_a_key_is_not_in_the_repr() -> None:
    assert "kkkk" not in repr(CONSOLE)
