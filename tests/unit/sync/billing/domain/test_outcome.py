"""Words that are stored and sent."""

from __future__ import annotations

from planwire_client.core.commit import Verdict
from sync.billing.domain.outcome import ERASED, ChangeRejected, Outcome


def test_the_words_are_those_of_builds_before() -> None:
    words = {"applied", "unchanged", "duplicate", "refused", "parked", "ignored", "conflict"}
    assert {str(outcome) for outcome in Outcome} == words


def test_every_verdict_that_billing_meets_is_an_outcome() -> None:
    """`stale` and `billed` are answers to publishers."""
    assert {Outcome(verdict.value) for verdict in Verdict if verdict.value not in ("stale", "billed")} <= set(Outcome)


def test_an_erased_tenants_event_leaves_neither_topic_nor_body() -> None:
    assert (ERASED.outcome, ERASED.topic, ERASED.version, ERASED.keeps_body) == (Outcome.IGNORED, "", 0, False)


def test_a_rejected_change_has_a_code_and_words() -> None:
    assert str(ChangeRejected("no_plan", "sub_1 holds no plan")) == "no_plan: sub_1 holds no plan"
