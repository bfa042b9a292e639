"""Retries of calls about usage, and what each policy makes of calls without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from planwire_client import Counted, OnUnavailable, Retries, UsageCall, UsageRefused, UsageUnavailable
from planwire_client.delivery import Retryable
from planwire_client.usage.attempts import Answers, Outcome, deliver

AWAY = Retryable("503")
NOT_KNOWN = UsageRefused("limit_unknown", "d")


class Gateway:
    """Answers by a script: for each attempt, a function of the calls."""

    def __init__(self, *answers: object, seconds: float = 0.0) -> None:
        self.answers = list(answers)
        self.sent: list[list[str]] = []
        self.timeouts: list[float] = []
        self.pauses: list[float] = []
        self.seconds = seconds
        self.now = 0.0

    async def send(self, calls: Sequence[UsageCall], timeout_s: float) -> Answers:
        self.sent.append([call.name for call in calls])
        self.timeouts.append(timeout_s)
        self.now += self.seconds
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        found: Answers = answer if isinstance(answer, list) else [answer] * len(calls)  # type: ignore[list-item]
        return found

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def __call__(
        self, *calls: UsageCall, policy: OnUnavailable = OnUnavailable.RAISE, retries: Retries | None = None
    ) -> list[Outcome]:
        retries = retries or Retries(attempts=3, total_timeout_s=3.0)
        work = deliver(calls, retries, self.send, self.sleep, lambda: self.now, lambda: 0.5, policy)
        return asyncio.run(work)


def call(name: str = "a", tenant: str = "tenant:acme", operation: str = "consume") -> UsageCall:
    return UsageCall(tenant, "seats", operation=operation, key=name)  # type: ignore[arg-type]


def test_a_retry_sends_the_same_key() -> None:
    gateway = Gateway(AWAY, Counted(True, 1))
    assert gateway(call()) == [Counted(True, 1)]
    assert gateway.sent == [["a"], ["a"]]


def test_an_answer_is_final_whether_it_allows_denies_or_refuses() -> None:
    for answer in (Counted(True, 1), Counted(False, 1), NOT_KNOWN):
        for policy in OnUnavailable:
            gateway = Gateway(answer)
            assert gateway(call(), policy=policy) == [answer]
            assert len(gateway.sent) == 1


@pytest.mark.parametrize(("policy", "is_allowed"), [(OnUnavailable.ALLOW, True), (OnUnavailable.DENY, False)])
def test_a_policy_decides_and_says_that_it_did(
    policy: OnUnavailable, is_allowed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway(AWAY)
    (found,) = gateway(call(), policy=policy)
    assert "1 calls about usage are not known to count" in caplog.text
    assert found == Counted(is_allowed, key="a", is_known=False, reason="503")
    assert (bool(found), found.used, found.limit, found.remaining) == (is_allowed, None, None, None)
    assert len(gateway.sent) == 3


def test_by_default_no_answer_is_raised_with_the_keys_and_what_is_known() -> None:
    gateway = Gateway([Counted(True, 1), AWAY, NOT_KNOWN], AWAY)
    with pytest.raises(UsageUnavailable) as raised:
        gateway(call("a"), call("b"), call("c"))
    error = raised.value
    assert (error.event_ids, error.counted) == (("b",), (Counted(True, 1), None, NOT_KNOWN))
    assert (str(error), error.attempts) == ("503 (after 3 attempts)", 3)


def test_only_calls_without_an_answer_are_sent_again() -> None:
    gateway = Gateway([Counted(True, 1), AWAY], [Counted(True, 2)])
    assert gateway(call("a"), call("b")) == [Counted(True, 1), Counted(True, 2)]
    assert gateway.sent == [["a", "b"], ["b"]]


def test_a_set_is_not_repeated_after_a_later_one() -> None:
    gateway = Gateway([AWAY, Counted(True, 2), AWAY], [Counted(True, 3)])
    first, second, other = call("a", operation="set"), call("b", operation="set"), call("c", "tenant:b", "set")
    found = gateway(first, second, other)
    assert isinstance(found[0], UsageRefused)
    assert (found[0].code, found[1:]) == ("superseded", [Counted(True, 2), Counted(True, 3)])
    assert gateway.sent == [["a", "b", "c"], ["c"]]


def test_an_attempt_that_hangs_leaves_time_for_another() -> None:
    gateway = Gateway(AWAY, seconds=1.5)
    with pytest.raises(UsageUnavailable):
        gateway(call())
    assert len(gateway.sent) == 2
    assert gateway.timeouts[0] == 1.5
    assert gateway.now <= 3.1


def test_a_requested_pause_is_kept_or_the_call_ends() -> None:
    gateway = Gateway(Retryable("429", True, 1.0), Counted(True, 1))
    gateway(call())
    assert gateway.pauses[0] >= 1.0
    gateway = Gateway(Retryable("429", True, 60.0))
    with pytest.raises(UsageUnavailable) as raised:
        gateway(call())
    assert (len(gateway.sent), raised.value.retry_after_s) == (1, 60.0)


def test_calls_of_several_environments_and_many_calls_are_several_batches_in_order() -> None:
    calls = [call(str(n), "sandbox/tenant:a" if n % 2 else "tenant:a") for n in range(1200)]

    class Counting(Gateway):
        async def send(self, calls: Sequence[UsageCall], timeout_s: float) -> Answers:
            self.sent.append([one.name for one in calls])
            return [Counted(True, int(one.name)) for one in calls]

    gateway = Counting()
    assert [found.used for found in gateway(*calls) if isinstance(found, Counted)] == list(range(1200))
    assert [len(batch) for batch in gateway.sent] == [500, 100, 500, 100]


def test_no_calls_send_nothing() -> None:
    gateway = Gateway(AWAY)
    assert gateway() == []
    assert gateway.sent == []
