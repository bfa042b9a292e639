"""What a store's maxmemory-policy may cost, in words and as a gauge."""

from __future__ import annotations

import math

import pytest

from sync.store.checks import eviction
from sync.store.checks.eviction import Memory

GIB = 1 << 30


@pytest.mark.parametrize("order", ["lru", "lfu", "random", "lrm", "yet-to-come"])
@pytest.mark.parametrize("limit", [0, GIB])
def test_evicting_any_key_is_refused_with_a_limit_and_without(order: str, limit: int) -> None:
    servers = [Memory("noeviction", GIB), Memory(f"allkeys-{order}", limit)]
    reason = eviction.refusal(servers)
    assert f"maxmemory-policy is allkeys-{order}" in reason
    assert "Set maxmemory-policy to noeviction" in reason
    assert ("no maxmemory yet" in reason) is (limit == 0)
    assert "\n" not in reason
    assert max(eviction.gauge(servers).values()) == 1


@pytest.mark.parametrize("order", ["lru", "lfu", "random", "ttl"])
def test_evicting_keys_with_an_expiry_is_a_warning_that_names_them(order: str) -> None:
    servers = [Memory(f"volatile-{order}", GIB)]
    assert eviction.refusal(servers) == ""
    assert "revoked tokens" in eviction.warning(servers)
    assert eviction.gauge(servers) == {f"volatile-{order}": 1}
    assert eviction.warning([Memory(f"volatile-{order}")]) == "", "without a limit nothing is removed"
    assert eviction.gauge([Memory(f"volatile-{order}")]) == {f"volatile-{order}": 0}


def test_nothing_is_wrong_with_one_that_evicts_nothing() -> None:
    servers = [Memory("noeviction"), Memory("noeviction", GIB)]
    assert (eviction.refusal(servers), eviction.warning(servers)) == ("", "")
    assert eviction.gauge(servers) == {"noeviction": 0}


def test_what_is_not_told_is_neither_refused_nor_called_harmless() -> None:
    servers = [eviction.read({}), eviction.read({"maxmemory": "nonsense"})]
    assert servers == [Memory(), Memory()]
    assert (eviction.refusal(servers), eviction.warning(servers)) == ("", "")
    assert math.isnan(eviction.gauge(servers)["unknown"])


def test_labels_are_bounded() -> None:
    found = eviction.gauge([Memory(f"allkeys-{number}", GIB) for number in range(100)])
    assert found == {"other": 1}


def test_it_is_read_as_redis_py_gives_it() -> None:
    told = {"maxmemory": GIB, "maxmemory_human": "1.00G", "maxmemory_policy": "volatile-lru"}
    assert eviction.read(told) == Memory("volatile-lru", GIB)
