"""The package's exceptions: what they say, and that they survive the way to another process."""

from __future__ import annotations

import pickle

import pytest

from planwire_client import (
    FeatureDenied,
    NotCurrent,
    PlanwireError,
    PublishRefused,
    RateLimited,
    Rejected,
    ReplicaClosed,
    ReplicaError,
    TopicRefused,
    Unavailable,
)

RAISED = [
    (PublishRefused("topic_invalid", "no topic", 422), "topic_invalid: no topic"),
    (Unavailable("503", 5, ("e1",), (Rejected("tenant:a", "c", "d"), None)), "503 (after 5 attempts)"),
    (RateLimited("429", 2, ("e1",), (None,), 7.0), "429 (after 2 attempts)"),
    (ReplicaError("tenant:a", "not open"), "tenant:a: not open"),
    (NotCurrent("tenant:a", "stale", 5), "tenant:a: not proved to be current (stale); version 5 is held"),
    (FeatureDenied("tenant:a", "sso", 5), "tenant:a: sso is not in version 5"),
    (TopicRefused("tenant:a", "revoked"), "tenant:a: the token does not open it (revoked)"),
    (ReplicaClosed("", 4503, "forbidden"), "closed (4503 forbidden)"),
    (ReplicaClosed("tenant:a", 0, ""), "tenant:a: closed"),
]


@pytest.mark.parametrize(("error", "text"), RAISED)
def test_it_says_what_it_is_and_survives_a_pickle(error: PlanwireError, text: str) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), text, vars(error))
