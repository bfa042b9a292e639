"""A provider's list read while its events come in: whatever the order, what is newest stands."""

from __future__ import annotations

from hypothesis import given, strategies as st

from sync.billing.domain.facts.model import FETCHED, NOTHING, Event, Facts, Item, Order, Subscription
from sync.billing.domain.facts.reducer import Reduced, merge_fetched, reduce

S = 1_000_000_000
START_S = 1_795_400_000

HISTORIES = st.lists(
    st.tuples(st.sampled_from(["active", "past_due", "paused", "canceled"]), st.integers(1, 3)), min_size=1, max_size=8
)


def body(told: tuple[str, int]) -> Subscription:
    status, quantity = told
    return Subscription("sub_1", status, (Item("price_pro", quantity),))


def event(index: int, told: tuple[str, int], stamped: bool) -> Event:
    """The event of what happened in second `index`."""
    at_ns = (START_S + index) * S
    order = Order.of(at_ns if stamped else None, at_ns, f"evt_{index}")
    return Event("stripe", "live", order.event_id, "updated", order, subscription=body(told), subscription_id="sub_1")


def listed(index: int, told: tuple[str, int], stamped: bool) -> Event:
    """What the list shows half a second after what happened in second `index`.

    A change in the very second of the list, that events of whole seconds cannot place, is what the fetch is for that
    its event leads to.
    """
    began_ns = (START_S + index) * S + S // 2
    order = Order.fetched((START_S + index) * S if stamped else None, began_ns)
    return Event(
        *("stripe", "live", "", FETCHED, order),
        subscription=body(told),
        subscription_id="sub_1",
        unstamped=not stamped,
    )


@given(st.data(), HISTORIES, st.booleans())
def test_events_around_a_list_end_the_same(data: st.DataObject, history: list[tuple[str, int]], stamped: bool) -> None:
    events = [event(index, told, stamped) for index, told in enumerate(history)]
    pages = data.draw(st.lists(st.integers(0, len(history) - 1), min_size=1, max_size=3))
    arrivals = data.draw(
        st.permutations([*events, *events[::2], *[listed(page, history[page], stamped) for page in pages]])
    )
    facts: Facts = NOTHING
    for arrival in arrivals:
        result = merge_fetched(facts, arrival) if arrival.type == FETCHED else reduce(facts, arrival)
        if isinstance(result, Reduced):
            facts = result.facts
    assert facts.subscriptions["stripe:sub_1"].subscription == body(history[-1])


@given(HISTORIES, st.booleans())
def test_a_list_that_is_read_twice_says_nothing_new(history: list[tuple[str, int]], stamped: bool) -> None:
    facts: Facts = NOTHING
    for index, told in enumerate(history):
        result = reduce(facts, event(index, told, stamped))
        assert isinstance(result, Reduced)
        facts = result.facts
    last = len(history) - 1
    first = merge_fetched(facts, listed(last, history[last], stamped))
    assert not isinstance(first, Reduced)
    assert not isinstance(merge_fetched(facts, listed(last + 90, history[last], False)), Reduced)
