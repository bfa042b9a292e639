"""A call's attempts, one after another: what is sent again, what never, how long it waits, when it gives up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, strategies as st

from planwire_client import Outcome, Publish, Published, PublishRefused, RateLimited, Rejected, Retries, Verdict
from planwire_client.change import check, encode, identified
from planwire_client.core.topic import RESERVED_KINDS
from planwire_client.delivery import BATCH_BYTES, Answers, Retryable, chunks, deliver, finished
from planwire_client.errors import Unavailable

LATER = Retryable("503")


def item(topic: str = "tenant:a", event_id: str = "e1") -> Publish:
    return Publish(topic, {"n": 1}, event_id=event_id)


def applied(one: Publish) -> Published:
    return Published(one.topic, Verdict.APPLIED, 7, one.event_id or "")


def missed(one: Publish) -> Rejected:
    return Rejected(one.topic, "store_unavailable", "away")


class Run:
    """Drives `deliver` with a clock of its own. `answer` is called at each send."""

    def __init__(self, answer: Callable[[Sequence[Publish], int], Answers | Retryable], chance: float = 0.5) -> None:
        self.now = 0.0
        self.sent: list[list[Publish]] = []
        self.slept: list[float] = []
        self._answer = answer
        self._chance = chance

    def __call__(self, items: Sequence[Publish], retries: Retries | None = None) -> list[Outcome]:
        async def send(sent: Sequence[Publish], timeout_s: float) -> Answers | Retryable:
            assert timeout_s > 0
            self.sent.append(list(sent))
            return self._answer(sent, len(self.sent))

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            self.now += seconds

        return finished(deliver(items, retries or Retries(), send, sleep, lambda: self.now, lambda: self._chance))


def test_a_lost_answer_is_followed_by_the_same_event_ids() -> None:
    run = Run(lambda items, attempt: LATER if attempt < 3 else Answers([applied(one) for one in items]))
    assert run([item()]) == [applied(item())]
    assert run.sent == [[item()]] * 3
    assert run.slept == [0.1, 0.2], "0.1 * 2^n, halved by chance"


def test_pauses_grow_with_full_jitter_up_to_a_bound() -> None:
    retries = Retries(backoff_min_s=1, backoff_max_s=5)
    assert [retries.pause_s(failures, 0.999999) for failures in (0, 1, 2, 3, 90)] == pytest.approx(
        [1, 2, 4, 5, 5], 1e-4
    )
    assert retries.pause_s(3, 0.0) == 0.0


def test_retry_after_is_waited_at_least() -> None:
    run = Run(lambda items, attempt: Retryable("429", True, 7) if attempt == 1 else Answers([applied(items[0])]))
    run([item()])
    assert run.slept[0] >= 7


def test_attempts_are_bounded() -> None:
    run = Run(lambda items, attempt: LATER)
    with pytest.raises(Unavailable) as raised:
        run([item()], Retries(attempts=4))
    assert (len(run.sent), raised.value.attempts, raised.value.event_ids) == (4, 4, ("e1",))


def test_the_time_is_bounded_and_nothing_is_slept_in_vain() -> None:
    run = Run(lambda items, attempt: Retryable("429", True, 60))
    with pytest.raises(RateLimited) as raised:
        run([item()], Retries(total_timeout_s=30))
    assert (run.slept, raised.value.retry_after_s) == ([], 60)


def test_only_the_items_that_failed_are_sent_again() -> None:
    items = [item("tenant:a", "1"), item("tenant:b", "2"), Publish("tenant:c", 1, event_id="3")]

    def answer(sent: Sequence[Publish], attempt: int) -> Answers:
        if attempt == 1:
            return Answers([applied(sent[0]), missed(sent[1]), Rejected("tenant:c", "state_too_large", "x")])
        return Answers([applied(one) for one in sent])

    run = Run(answer)
    assert [getattr(one, "code", "applied") for one in run(items)] == ["applied", "applied", "state_too_large"]
    assert [[one.event_id for one in sent] for sent in run.sent] == [["1", "2", "3"], ["2"]]


def test_an_item_whose_successor_stands_is_not_sent_again() -> None:
    """It would put the older state over the newer one."""
    items = [item(event_id="1"), item(event_id="2")]
    run = Run(lambda sent, attempt: Answers([missed(sent[0]), applied(sent[1])]))
    first, second = run(items)
    assert isinstance(first, Rejected)
    assert (first.code, second, len(run.sent)) == ("superseded", applied(items[1]), 1)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), min_size=1, max_size=12), st.integers(0, 2**12))
def test_whatever_fails_no_topic_ever_goes_back(shape: list[tuple[str, bool]], failing: int) -> None:
    items = [item(f"tenant:{name}", str(index)) for index, (name, _) in enumerate(shape)]
    committed: dict[str, list[int]] = {}

    def answer(sent: Sequence[Publish], attempt: int) -> Answers:
        outcomes: list[Outcome] = []
        for one in sent:
            if attempt == 1 and failing >> int(one.event_id or 0) & 1:
                outcomes.append(missed(one))
            else:
                committed.setdefault(one.topic, []).append(int(one.event_id or 0))
                outcomes.append(applied(one))
        return Answers(outcomes)

    outcomes = Run(answer)(items)
    assert len(outcomes) == len(items)
    for history in committed.values():
        assert history == sorted(history)


def test_what_is_known_goes_along_when_giving_up() -> None:
    items = [item("tenant:a", "1"), item("tenant:b", "2")]
    run = Run(lambda sent, attempt: Answers([applied(sent[0]), missed(sent[1])] if attempt == 1 else [missed(sent[0])]))
    with pytest.raises(Unavailable) as raised:
        run(items)
    assert raised.value.outcomes == (applied(items[0]), None)
    assert raised.value.event_ids == ("2",)


def test_batches_are_cut_by_items_and_by_bytes() -> None:
    assert [len(one) for one in chunks([item()] * 1001)] == [500, 500, 1]
    large = Publish("tenant:a", "x" * 30_000, event_id="1")
    cut = chunks([large] * 300)
    assert len(cut) > 1
    assert all(len(one) * 30_000 < BATCH_BYTES for one in cut)
    assert chunks([]) == []


def test_an_event_id_is_made_up_only_where_there_is_none() -> None:
    assert identified(Publish("tenant:a", 1), lambda: "new").event_id == "new"
    own = item()
    assert identified(own, lambda: "new") is own


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (Publish("tenant", 1), "topic_invalid"),
        (Publish("live/tenant:a", 1), "topic_invalid"),
        (Publish("probe:a", 1), "topic_reserved"),
        (Publish("tenant:a", 1, event_id=""), "request_invalid"),
        (Publish("tenant:a", 1, order=-1), "request_invalid"),
        (Publish("tenant:a", 1, order="x" * 129), "request_invalid"),
        (Publish("tenant:a", 1, if_version=-1), "request_invalid"),
    ],
)
def test_what_a_gateway_would_refuse_is_refused_here(bad: Publish, code: str) -> None:
    with pytest.raises(PublishRefused) as raised:
        check(bad)
    assert raised.value.code == code


def test_a_state_is_bounded_in_size_and_depth() -> None:
    deep: object = 1
    for _ in range(33):
        deep = [deep]
    for value, code in (("x" * 40_000, "state_too_large"), (deep, "state_too_deep"), ({1j}, "request_invalid")):
        with pytest.raises(PublishRefused) as raised:
            encode("state", value)
        assert raised.value.code == code
    assert encode("state", {"b": 1.0, "a": "é"}) == '{"a":"é","b":1.0}'.encode()


UNSAFE = [
    Publish("tenant:a", {"a": [2**53]}, event_id="big"),
    Publish("tenant:b", 1, {"a": 2**64}, event_id="larger"),
    Publish("tenant:c", {"a": float("nan")}, event_id="no number"),
]


@pytest.mark.parametrize("unsafe", UNSAFE)
def test_a_number_that_not_everybody_reads_alike_is_never_sent(unsafe: Publish) -> None:
    with pytest.raises(PublishRefused, match="number_unsafe"):
        (encode("state", unsafe.state), encode("private", unsafe.private))
    run = Run(lambda items, attempt: Answers([applied(one) for one in items]))
    (outcome,) = run([unsafe])
    assert isinstance(outcome, Rejected)
    assert (outcome.topic, outcome.code, run.sent) == (unsafe.topic, "number_unsafe", [])


def test_the_others_of_its_batch_are_sent_and_keep_their_places() -> None:
    good = [item(f"tenant:{index}", str(index)) for index in range(1001)]
    items = [UNSAFE[0], *good[:600], UNSAFE[1], *good[600:], UNSAFE[2]]

    def answer(sent: Sequence[Publish], attempt: int) -> Answers | Retryable:
        if attempt == 2:
            return LATER
        return Answers([missed(one) if attempt == 1 and one.event_id == "7" else applied(one) for one in sent])

    run = Run(answer)
    outcomes = run(items)
    assert [outcome.topic for outcome in outcomes] == [one.topic for one in items]
    assert [at for at, outcome in enumerate(outcomes) if isinstance(outcome, Rejected)] == [0, 601, 1003]
    assert [one.event_id for sent in run.sent[2:] for one in sent] == ["7", *(str(index) for index in range(500, 1001))]


def test_the_event_ids_of_batches_that_were_never_sent_go_along_too() -> None:
    items = [item("tenant:a", str(index)) for index in range(501)]
    with pytest.raises(Unavailable) as raised:
        Run(lambda sent, attempt: LATER)(items, Retries(attempts=1))
    assert raised.value.event_ids == tuple(str(index) for index in range(501))


def test_what_is_not_known_is_told_by_place_too() -> None:
    items = [UNSAFE[0], item("tenant:a", "1"), UNSAFE[1], item("tenant:b", "2")]
    run = Run(lambda sent, attempt: Answers([applied(sent[0]), missed(sent[1])] if attempt == 1 else [missed(sent[0])]))
    with pytest.raises(Unavailable) as raised:
        run(items)
    assert raised.value.event_ids == ("2",)
    first, second, third, fourth = raised.value.outcomes
    assert (second, fourth) == (applied(items[1]), None)
    assert isinstance(first, Rejected)
    assert isinstance(third, Rejected)


def test_depth_is_for_the_gateway_to_judge() -> None:
    deep: object = {"a": 2**53}
    for _ in range(300):
        deep = [deep]
    with pytest.raises(PublishRefused, match="not JSON"):
        Run(lambda items, attempt: LATER)([Publish("tenant:a", deep, event_id="1")])


def test_nobody_publishes_to_the_reserved_kinds() -> None:
    for kind in RESERVED_KINDS:
        with pytest.raises(PublishRefused, match=f"topics of kind {kind} are written by planwire itself"):
            check(Publish(f"sandbox/{kind}:a", 1))
