"""Publish keys: found by hash, each with its own rate and rights; which topics the patterns of rights cover."""

from __future__ import annotations

import re
import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given, strategies as st

from gateway.auth.publish_keys import (
    ANY,
    EVERYTHING,
    GRANTS_PER_KEY_MAX,
    Grant,
    PublishKeys,
    Rights,
    Scope,
    TokenBucket,
    hash_key,
    parse_grants,
)

PUBLISH, TENANTS, ADMIN = Scope.PUBLISH, Scope.TENANTS, Scope.ADMIN
TOPICS = [
    "tenant:acme", "tenant:acme2", "tenant:ac", "tenant:%C3%BC", "prefs:acme", "prefsx:acme", "sandbox/tenant:acme",
    "sandbox/prefs:x", "sandboxed/tenant:acme", "user:tenant", "tenant:a*", "tenant:*", "sandbox/tenant:*", "*",
]  # fmt: skip


def keys(rate: float | None = None) -> PublishKeys:
    return PublishKeys(
        [("ci", hash_key("secret-a").hex(), rate), ("app", hash_key("secret-b").hex(), None)], default_rate=50
    )


def test_a_key_is_found_by_what_it_hashes_to() -> None:
    found = keys().find("secret-b")
    assert found is not None
    assert (found.name, found.bucket.rate) == ("app", 50)


@pytest.mark.parametrize("presented", ["", "secret", "secret-a ", hash_key("secret-a").hex(), "x" * 513, "\ud800"])
def test_anything_else_is_no_key(presented: str) -> None:
    assert keys().find(presented) is None


def test_the_hash_is_not_in_the_repr() -> None:
    assert hash_key("secret-a").hex() not in repr(keys().find("secret-a"))


def test_rights_are_each_keys_own_and_without_entries_they_are_all() -> None:
    entries = [(name, hash_key(name).hex(), None) for name in ("ci", "app")]
    both = PublishKeys(entries, parse_grants(["ci:publish:prefs:*", "ci:admin:tenant:a"]), default_rate=1)
    ci, app = both.find("ci"), both.find("app")
    assert ci is not None
    assert app is not None
    assert ci.rights.cover(Scope.PUBLISH, "prefs:x")
    assert ci.rights.cover(Scope.ADMIN, "tenant:a")
    assert not ci.rights.cover(Scope.PUBLISH, "tenant:a")
    assert app.rights is EVERYTHING


def test_rates_are_each_keys_own() -> None:
    both = keys(rate=2)
    first, second = both.find("secret-a"), both.find("secret-b")
    assert first is not None
    assert second is not None
    assert first.bucket.take(2, 0) == 0
    assert first.bucket.take(1, 0) > 0
    assert second.bucket.take(1, 0) == 0


def test_a_bucket_says_how_long_to_wait_and_keeps_the_word() -> None:
    bucket = TokenBucket(rate=10, burst_s=0.5)
    assert bucket.take(5, 100) == 0
    wait = bucket.take(1, 100)
    assert wait == pytest.approx(0.1)
    assert bucket.take(1, 100 + wait / 2) > 0
    assert bucket.take(1, 100 + wait) == 0


def test_more_than_the_burst_is_had_from_a_full_bucket_and_paid_back() -> None:
    bucket = TokenBucket(rate=10, burst_s=1.0)
    assert bucket.take(100, 0) == 0
    assert bucket.take(1, 1) > 0
    assert bucket.take(1, 9.2) == 0


def test_a_clock_that_jumps_back_gives_nothing_away() -> None:
    bucket = TokenBucket(rate=10, burst_s=0.1)
    assert bucket.take(1, 100) == 0
    assert bucket.take(1, 50) > 0


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 5)), max_size=60))
def test_no_pattern_of_use_beats_the_rate(uses: list[tuple[float, int]]) -> None:
    bucket, now, taken = TokenBucket(rate=10, burst_s=0.5), 1000.0, 0
    for pause, units in uses:
        now += pause
        if not bucket.take(units, now):
            taken += units
    assert taken <= 5 + (now - 1000) * 10 + 1e-6


def rights(*entries: str) -> Rights:
    return Rights(parse_grants(entries))


def covered(pattern: str, scope: Scope = PUBLISH) -> set[str]:
    found = rights(f"k:publish:{pattern}")
    return {topic for topic in TOPICS if found.cover(scope, topic)}


def test_an_entry_names_a_key_its_scopes_and_a_pattern() -> None:
    assert parse_grants(["ops:admin+publish:sandbox/tenant:*"]) == (
        Grant("ops", (PUBLISH, ADMIN), "sandbox/tenant:*"),
    )  # fmt: skip
    assert str(parse_grants(["ops:admin+publish:*"])[0]) == "ops:publish+admin:*"


@pytest.mark.parametrize(
    ("pattern", "topics"),
    [
        ("tenant:acme", {"tenant:acme"}),
        ("tenant:%C3%BC", {"tenant:%C3%BC"}),
        ("tenant:ac*", {"tenant:acme", "tenant:acme2", "tenant:ac"}),
        ("tenant:*", {topic for topic in TOPICS if topic.startswith("tenant:")}),
        ("prefs:*", {"prefs:acme"}),
        ("sandbox/tenant:*", {"sandbox/tenant:acme", "sandbox/tenant:*"}),
        ("sandbox/*", {"sandbox/tenant:acme", "sandbox/prefs:x", "sandbox/tenant:*"}),
        ("*", set(TOPICS)),
    ],
)
def test_a_pattern_covers_whole_names_from_their_first_letter(pattern: str, topics: set[str]) -> None:
    assert covered(pattern) == topics
    assert covered(pattern, ADMIN) == set()


def test_all_of_a_kind_is_covered_by_a_pattern_that_has_all_of_it() -> None:
    """`tenant:*` as a topic stands for every tenant: some of them do not suffice."""
    assert not rights("k:tenants:tenant:a*", "k:tenants:tenant:acme").cover(TENANTS, "tenant:*")
    assert rights("k:tenants:tenant:a*", "k:tenants:tenant:*").cover(TENANTS, "tenant:*")
    assert not rights("k:tenants:tenant:*").cover(TENANTS, "sandbox/tenant:*")
    assert not rights("k:admin:tenant:*", "k:admin:sandbox/*").cover(ADMIN, ANY)


def test_a_key_has_the_scopes_of_each_of_its_entries() -> None:
    found = rights("k:publish:prefs:*", "k:tenants+admin:tenant:acme")
    assert found.cover(PUBLISH, "prefs:x")
    assert not found.cover(PUBLISH, "tenant:acme")
    assert found.cover(ADMIN, "tenant:acme")
    assert not found.cover(TENANTS, "prefs:x")


def test_why_not_is_told_by_a_stable_code() -> None:
    found = rights("k:publish:prefs:*")
    assert found.denial("k", PUBLISH, "prefs:x") is None
    forbidden, missing = found.denial("k", PUBLISH, "tenant:a"), found.denial("k", ADMIN, "prefs:x")
    assert forbidden is not None
    assert missing is not None
    assert (forbidden.code, missing.code) == ("topic_forbidden", "scope_missing")
    assert forbidden.detail == "the scope publish of the key k does not cover tenant:a"
    assert missing.detail == "the key k does not have the scope admin"
    assert found.denial("k", PUBLISH) is None


def test_a_key_without_entries_may_do_everything() -> None:
    assert all(EVERYTHING.cover(scope, topic) for scope in Scope for topic in TOPICS)


@pytest.mark.parametrize(
    "entry",
    [
        "", "k", "k:publish", "k:publish:", ":publish:*", "k::*", "k:*:*", "k:Publish:*", "k:publish,admin:*",
        "k:publish+:*", "k:+publish:*", "k:write:*", "k!:publish:*", "k" * 65 + ":publish:*", "k:publish:tenant",
        "k:publish:**", "k:publish:tenant:**", "k:publish:*:acme", "k:publish:te*", "k:publish:tenant:a*b",
        "k:publish:*/tenant:a", "k:publish:live/tenant:*", "k:publish:live/*", "k:publish:Tenant:*", "k:publish: *",
        "k:publish:tenant:a b", "k:publish:tenant:a/b", "k:publish:a/b/tenant:*", "k:publish:tenant:" + "a" * 500,
        "k:publish:tenant:a\n", "k:publish:[a-z]:*",
    ],
)  # fmt: skip
def test_anything_else_is_an_error_that_names_the_entry(entry: str) -> None:
    with pytest.raises(ValueError, match=r"such as|is not a scope"):
        parse_grants([entry])


def test_a_key_has_a_bounded_number_of_entries() -> None:
    entries = [f"k:publish:tenant:{number}" for number in range(GRANTS_PER_KEY_MAX)]
    assert len(parse_grants(entries)) == GRANTS_PER_KEY_MAX
    with pytest.raises(ValueError, match="the key k has 65 entries; at most 64"):
        parse_grants([*entries, "k:publish:user:1"])


_NAMES = st.from_regex(r"(?:sandbox/)?(?:tenant|t):[a-c]{1,3}", fullmatch=True)
_PATTERNS = _NAMES | _NAMES.map(lambda name: f"{name}*") | st.sampled_from(["*", "tenant:*", "sandbox/*"])


@given(st.lists(_PATTERNS, max_size=5), _NAMES)
def test_it_decides_as_a_glob_does(patterns: list[str], topic: str) -> None:
    found = rights(*(f"k:publish:{pattern}" for pattern in patterns))
    assert found.cover(PUBLISH, topic) == any(fnmatchcase(topic, pattern) for pattern in patterns)


def test_the_longest_names_and_the_most_patterns_take_no_time() -> None:
    found = rights(*(f"k:publish:tenant:{'%7C' * 125}{number:03}*" for number in range(GRANTS_PER_KEY_MAX)))
    topic = "tenant:" + "%7C" * 128
    started = time.thread_time()
    for _ in range(1000):
        assert not found.cover(PUBLISH, topic)
    assert time.thread_time() - started < 0.5  # typical: 0.01


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("tenant:auth0|*", "write tenant:auth0%7C*"),
        ("tenant:auth0%7c1", "write tenant:auth0%7C1"),
        ("sandbox/tenant:jane+work@example.com", "write sandbox/tenant:jane%2Bwork@example.com"),
        ("tenant:a%4", "such as tenant:acme"),
        ("tenant:auth0%7*", "such as tenant:acme"),
        ("tenant:%61*", "write tenant:a*"),
    ],
)
def test_a_pattern_has_encoded_ids_and_its_error_says_how_it_is_written(pattern: str, advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        parse_grants([f"ci:publish:{pattern}"])
    (good,) = parse_grants(["ci:publish:tenant:auth0%7C*"])
    assert Rights([good]).cover(PUBLISH, "tenant:auth0%7C5f1c")
    assert not Rights([good]).cover(PUBLISH, "tenant:auth0")
