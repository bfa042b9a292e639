"""One slot per topic, oldest first, whatever is offered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.hub.pending import PendingTopics

SLOTS = st.sampled_from("abcd")


def test_the_slot_that_waited_longest_is_taken_first_even_if_offered_again() -> None:
    pending: PendingTopics[str] = PendingTopics()
    assert [pending.offer(slot) for slot in "abca"] == [False, False, False, True]
    assert [pending.take() for _ in range(4)] == ["a", "b", "c", None]


def test_a_slot_taken_may_be_offered_anew() -> None:
    pending: PendingTopics[str] = PendingTopics()
    pending.offer("a")
    assert pending.take() == "a"
    assert pending.offer("a") is False
    assert len(pending) == 1


@given(st.lists(st.tuples(st.sampled_from(["offer", "take", "discard"]), SLOTS)))
def test_it_is_an_ordered_set_whatever_is_done_to_it(steps: list[tuple[str, str]]) -> None:
    pending: PendingTopics[str] = PendingTopics()
    model: list[str] = []
    for step, slot in steps:
        match step:
            case "offer":
                assert pending.offer(slot) is (slot in model)
                if slot not in model:
                    model.append(slot)
            case "take":
                assert pending.take() == (model.pop(0) if model else None)
            case "discard":
                pending.discard(slot)
                if slot in model:
                    model.remove(slot)
        assert len(pending) == len(model)
