"""What may be concluded from a snapshot: every policy against every state of knowledge."""

from __future__ import annotations

import math

import pytest

from planwire_client import FeatureDenied, NotCurrent, Policy, Snapshot
from planwire_client.replica.snapshot import decide

YES = Snapshot("tenant:a", 5, {"features": {"sso": True}})
NO = Snapshot("tenant:a", 5, {"features": {"sso": False}})


def outcome(snapshot: Snapshot | None, is_fresh: bool, policy: Policy, min_version: int = 0, app: str = "") -> str:
    try:
        found = decide("tenant:a", snapshot, is_fresh, "sso", min_version, policy, app)
    except FeatureDenied as denied:
        return f"denied {denied.version}"
    except NotCurrent as error:
        return error.reason
    return "nothing held" if found is None else "allowed"


@pytest.mark.parametrize(
    ("snapshot", "is_fresh", "min_version", "closed", "opened", "last"),
    [
        (YES, True, 0, "allowed", "allowed", "allowed"),
        (YES, True, 5, "allowed", "allowed", "allowed"),
        (NO, True, 5, "denied 5", "denied 5", "denied 5"),
        (YES, False, 0, "stale", "allowed", "allowed"),
        (NO, False, 0, "stale", "allowed", "denied 5"),
        (YES, True, 6, "behind", "allowed", "behind"),
        (NO, True, 6, "behind", "allowed", "behind"),
        (NO, False, 6, "behind", "allowed", "behind"),
        (None, True, 0, "unknown", "nothing held", "unknown"),
        (None, False, 6, "unknown", "nothing held", "unknown"),
    ],
)
def test_policies(
    snapshot: Snapshot | None, is_fresh: bool, min_version: int, closed: str, opened: str, last: str
) -> None:
    found = [outcome(snapshot, is_fresh, policy, min_version) for policy in Policy]
    assert found == [closed, opened, last]


APPS = Snapshot("tenant:a", 5, {"features": {"sso": True}, "apps": {"crm": {"features": {"sso": True}}, "mail": {}}})
NO_STATE = Snapshot("tenant:a", 0, None)


@pytest.mark.parametrize(
    ("snapshot", "app", "closed", "opened", "last"),
    [
        (APPS, "crm", "allowed", "allowed", "allowed"),
        (APPS, "mail", "denied 5", "denied 5", "denied 5"),
        (APPS, "shop", "no_app", "allowed", "no_app"),
        (YES, "crm", "no_app", "allowed", "no_app"),
        (NO_STATE, "crm", "denied 0", "denied 0", "denied 0"),
        (None, "crm", "unknown", "nothing held", "unknown"),
    ],
)
def test_one_application_is_asked(snapshot: Snapshot | None, app: str, closed: str, opened: str, last: str) -> None:
    """A state that does not have the application says nothing of it."""
    assert [outcome(snapshot, True, policy, app=app) for policy in Policy] == [closed, opened, last]


def test_a_snapshot_within_an_application_has_its_limits() -> None:
    state = {"limits": {"seats": 9}, "apps": {"crm": {"limits": {"seats": 5}}}}
    snapshot = Snapshot("tenant:a", 5, state, {"source": "paddle"})
    crm = snapshot.within("crm")
    assert crm == Snapshot("tenant:a", 5, {"limits": {"seats": 5}}, {"source": "paddle"})
    assert crm is not None
    assert (crm.limit("seats"), snapshot.limit("seats")) == (5, 9)
    assert snapshot.within("mail") is Snapshot("tenant:a", 5, []).within("crm") is None


@pytest.mark.parametrize("state", [None, 1, [], {}, {"features": None}, {"features": {"sso": "yes"}}, {"features": []}])
def test_only_true_is_a_feature(state: object) -> None:
    assert not Snapshot("tenant:a", 1, state).has("sso")


@pytest.mark.parametrize(
    ("value", "limit"), [(3, 3), ("unlimited", math.inf), (0, 0), (2.5, 2.5), (None, None), (True, None), ("3", None)]
)
def test_limits(value: object, limit: float | None) -> None:
    assert Snapshot("tenant:a", 1, {"limits": {"seats": value}}).limit("seats") == limit
    assert Snapshot("tenant:a", 1, None).limit("seats") is None
