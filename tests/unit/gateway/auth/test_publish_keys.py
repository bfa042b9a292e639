"""Publish keys: found by hash, each with its own rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.publish_keys import PublishKeys, TokenBucket, hash_key
from gateway.auth.rights import EVERYTHING, Scope, parse_grants


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
    bucket = TokenBucket(rate=10, burst=5)
    assert bucket.take(5, 100) == 0
    wait = bucket.take(1, 100)
    assert wait == pytest.approx(0.1)
    assert bucket.take(1, 100 + wait / 2) > 0
    assert bucket.take(1, 100 + wait) == 0


def test_more_than_the_burst_is_had_from_a_full_bucket_and_paid_back() -> None:
    bucket = TokenBucket(rate=10, burst=10)
    assert bucket.take(100, 0) == 0
    assert bucket.take(1, 1) > 0
    assert bucket.take(1, 9.2) == 0


def test_a_clock_that_jumps_back_gives_nothing_away() -> None:
    bucket = TokenBucket(rate=10, burst=1)
    assert bucket.take(1, 100) == 0
    assert bucket.take(1, 50) > 0


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 5)), max_size=60))
def test_no_pattern_of_use_beats_the_rate(uses: list[tuple[float, int]]) -> None:
    bucket, now, taken = TokenBucket(rate=10, burst=5), 1000.0, 0
    for pause, units in uses:
        now += pause
        if not bucket.take(units, now):
            taken += units
    assert taken <= 5 + (now - 1000) * 10 + 1e-6
