"""Reservations: what is counted when the work ends, fails, says what it used, or Planwire does not answer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from planwire_client import (
    AsyncUsage,
    Counted,
    OnUnavailable,
    PlanwireError,
    Reservation,
    Usage,
    UsageCall,
    UsageDenied,
    UsageRefused,
    UsageUnavailable,
)

AWAY = UsageUnavailable("503", 3, ("job",))


class Scripted(Usage):
    """Answers each call by a script, and keeps the calls."""

    def __init__(self, *answers: Counted | Exception, policy: str = "raise") -> None:
        super().__init__("http://gateway.test", "key", on_unavailable=policy)
        self.answers = list(answers)
        self.calls: list[UsageCall] = []

    def call(self, call: UsageCall) -> Counted:
        self.calls.append(call)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def job(self, **more: Any) -> Reservation:
        return self.reserve("tenant:acme", "tokens", 4000, **more)

    @property
    def ended(self) -> tuple[str, int, str | None]:
        """Operation, amount and id of the last call."""
        return self.calls[-1].operation, self.calls[-1].amount, self.calls[-1].id


def test_what_the_work_used_is_counted() -> None:
    usage = Scripted(Counted(True, 0), Counted(True, 1234))
    with usage.job(seconds=60, id="job-1") as job:
        job.used = 1234
    assert usage.calls[0] == UsageCall("tenant:acme", "tokens", 4000, "reserve", id="job-1", seconds=60)
    assert usage.ended == ("finalize", 1234, "job-1")
    assert job.finalized == Counted(True, 1234)


def test_work_that_does_not_say_what_it_used_used_everything() -> None:
    usage = Scripted(Counted(True, 0), Counted(True, 4000))
    with usage.job() as job:
        pass
    assert usage.ended == ("finalize", 4000, job.id)


@pytest.mark.parametrize(("used", "counted"), [(None, 0), (900, 900), (0, 0)])
def test_work_that_fails_gives_back_what_it_has_not_used(used: int | None, counted: int) -> None:
    usage = Scripted(Counted(True, 0), Counted(True, counted))

    def work() -> None:
        with usage.job(id="job-1") as job:
            job.used = used
            raise KeyError("work")

    with pytest.raises(KeyError):
        work()
    assert usage.ended == ("finalize", counted, "job-1")


def test_units_that_do_not_fit_stop_the_work_before_it_begins() -> None:
    usage = Scripted(Counted(False, 99, limit=100, remaining=1))
    with pytest.raises(UsageDenied) as raised, usage.job():
        pytest.fail("the work begins")
    assert (raised.value.tenant, raised.value.amount, len(usage.calls)) == ("tenant:acme", 4000, 1)
    assert "4000 tokens do not fit: 1 of 100 are left" in str(raised.value)


@pytest.mark.parametrize("error", [AWAY, UsageRefused("key_invalid", "d")])
def test_the_error_of_the_work_is_not_hidden(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    usage = Scripted(Counted(True, 0), error)
    with pytest.raises(KeyError), usage.job():
        raise KeyError("work")
    assert "is not finalized" in caplog.text


def test_work_that_is_done_and_not_counted_is_raised_by_default() -> None:
    usage = Scripted(Counted(True, 0), AWAY)
    with pytest.raises(UsageUnavailable), usage.job() as job:
        job.used = 1
    assert job.finalized is None


def test_allowed_without_an_answer_the_work_is_still_counted_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    unknown = Counted(True, is_known=False, reason="503")
    usage = Scripted(unknown, unknown, policy="allow")
    with usage.job() as job:
        job.used = 5
    assert usage.ended == ("finalize", 5, job.id)
    assert job.finalized == unknown
    assert "is not known" in caplog.text


def test_denied_without_an_answer_says_that_it_is_not_known() -> None:
    usage = Scripted(Counted(False, is_known=False, reason="503"), policy="deny")
    with pytest.raises(UsageDenied) as raised, usage.job():
        pytest.fail("the work begins")
    assert not raised.value.counted.is_known
    assert "is not known" in str(raised.value)


def test_a_reservation_that_had_ended_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    usage = Scripted(Counted(True, 0), Counted(False, 100))
    with usage.job():
        pass
    assert caplog.records[0].levelno == logging.WARNING
    assert "had ended" in caplog.text


def test_it_may_be_ended_by_hand_and_then_with_does_nothing_more() -> None:
    usage = Scripted(Counted(True, 0), Counted(True, 0))
    with usage.job() as job:
        job.cancel()
    assert (len(usage.calls), usage.ended[1]) == (2, 0)


def test_it_is_made_once() -> None:
    usage = Scripted(Counted(True, 0), Counted(True, 0))
    job = usage.job()
    with job:
        pass
    with pytest.raises(PlanwireError, match="for each"), job:
        pass


def test_each_reservation_has_an_id_of_its_own() -> None:
    usage = Scripted()
    assert len({usage.job().id for _ in range(3)}) == 3


async def test_the_one_for_asyncio_gives_back_when_it_is_cancelled() -> None:
    calls: list[UsageCall] = []

    class Fake(AsyncUsage):
        async def call(self, call: UsageCall) -> Counted:
            await asyncio.sleep(0)
            calls.append(call)
            return Counted(True, 0)

    usage, is_working = Fake("http://gateway.test", "key", on_unavailable=OnUnavailable.ALLOW), asyncio.Event()

    async def work() -> None:
        async with usage.reserve("tenant:acme", "tokens", 10):
            is_working.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await is_working.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(call.operation, call.amount) for call in calls] == [("reserve", 10), ("finalize", 0)]


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("redis://localhost", "k"),
        ("gateway.test", "k"),
        ("http://gateway.test", ""),
        ("http://", "k"),
        ("http://gateway.test:99999", "k"),
        ("http://[::bad", "k"),
        ("http://gateway.test", "k\n"),
        ("http://gateway.test", "k\u00eb"),
    ],
)
def test_a_client_needs_the_url_of_a_gateway_and_a_key(url: str, key: str) -> None:
    with pytest.raises(PlanwireError):
        Usage(url, key)


def test_a_policy_that_does_not_exist_is_not_taken_for_one() -> None:
    with pytest.raises(ValueError, match="fail_open"):
        Usage("http://gateway.test", "key", on_unavailable="fail_open")
