"""What an event, or a look without one, makes of a tenant's facts; and that the order of arrival changes nothing."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, strategies as st

from sync.billing.catalog import catalog
from sync.billing.domain.decision import (
    Decided,
    Delivery,
    Tenant,
    decide,
    decide_without_event,
)
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.facts.instructions import Override, ScheduledPlanChange
from sync.billing.domain.facts.model import NOTHING, Event, Facts, Item
from sync.billing.domain.outcome import ERASED, OTHER_SOFTWARE, WAITS_CATALOG, WAITS_SOFTWARE, EventResult, Outcome
from tests.support.histories import BASIC, CATALOG, CATALOG_TEXT, PRO, at, event, histories

TOPIC = "tenant:acme"
IGNORING = catalog.parse(CATALOG_TEXT + '[ignore]\nprices.paddle.live = ["pri_theirs"]')
SETTING = Setting(CATALOG, "live", (), at(20))


def decided(facts: Facts, event: Event, fetched: Event | None = None) -> Decided:
    result = decide(Tenant(TOPIC, facts), Delivery(event, fetched), SETTING)
    assert isinstance(result, Decided), result
    return result


def left(facts: Facts, event: Event, fetched: Event | None = None) -> EventResult:
    result = decide(Tenant(TOPIC, facts), Delivery(event, fetched), SETTING)
    assert isinstance(result, EventResult), result
    return result


class TestDecide:
    """With an event."""

    def test_a_new_event_is_committed(self) -> None:
        after = decided(NOTHING, event("active", 1))
        assert (after.state["plan"]["key"], after.note, after.drifts) == ("pro", "", ())

    def test_an_older_one_is_refused(self) -> None:
        facts = decided(NOTHING, event("active", 2)).facts
        facts = decided(facts, event("canceled", 1)).facts  # tells that it is older than it was known to be
        result = left(facts, event("canceled", 1))
        assert result.outcome is Outcome.REFUSED
        assert result.reason.startswith("older than")

    def test_one_that_cannot_be_understood_waits_for_a_newer_release(self) -> None:
        result = left(NOTHING, event("quantum", 1))
        assert (result.outcome, result.waits) == (Outcome.PARKED, (WAITS_SOFTWARE,))

    def test_an_unknown_price_waits_for_the_catalog(self) -> None:
        result = left(NOTHING, event("active", 1, [Item("pri_new", 1), Item("pri_also_new", 1)]))
        assert (result.outcome, result.waits) == (
            Outcome.PARKED,
            (WAITS_CATALOG, "items:paddle:sub_1"),
        )
        assert result.reason == "unknown price pri_also_new, pri_new in live"

    def test_other_softwares_subscription_is_ignored_unless_the_tenant_had_it_before(self) -> None:
        theirs = [Item("pri_theirs", 1)]
        setting = SETTING._replace(catalog=IGNORING)
        assert decide(Tenant(TOPIC), Delivery(event("active", 1, theirs)), setting) == OTHER_SOFTWARE
        answer = decide_without_event(Tenant(TOPIC), [event("active", 1, theirs)], lambda facts: facts, setting)
        assert answer == EventResult(Outcome.UNCHANGED)
        ours = decided(NOTHING, event("active", 1)).facts
        after = decide(Tenant(TOPIC, ours), Delivery(event("active", 2, theirs)), setting)
        assert isinstance(after, Decided)
        assert (after.state["plan"]["key"], after.state["status"]) == ("free", "none")

    def test_an_erased_tenant_takes_nothing(self) -> None:
        assert left(Facts(erased_ns=at(1)), event("active", 1)) == ERASED

    def test_an_erased_tenant_that_pays_again_waits_to_be_revived(self) -> None:
        erased = Facts(erased_ns=at(1))
        result = left(erased, event("trialing", 2))
        assert (result.outcome, result.waits) == (Outcome.PARKED, ("revival:tenant:acme",))
        assert left(erased, event("paused", 2)) == ERASED
        assert left(erased, event("active", 2), replace(event("canceled", 3), type="fetched")) == ERASED

    def test_the_providers_answer_counts_rather_than_the_event(self) -> None:
        fetched = replace(event("active", 3, BASIC), type="fetched")
        assert decided(NOTHING, event("active", 2), fetched).state["plan"]["key"] == "basic"

    def test_an_unreadable_event_whose_answer_is_known_changes_nothing(self) -> None:
        facts = decided(NOTHING, event("active", 2)).facts
        known = replace(event("active", 2), type="fetched")
        result = left(facts, event("quantum", 3), known)
        assert (result.outcome, result.reason) == (Outcome.UNCHANGED, "what the provider says is known already")

    @given(st.data())
    def test_any_order_of_arrival_ends_at_the_same_state(self, data: st.DataObject) -> None:
        history = data.draw(histories())
        ends = []
        for order in (history, data.draw(st.permutations(history))):
            facts = NOTHING
            for each in order:
                result = decide(Tenant(TOPIC, facts), Delivery(each), SETTING)
                facts = result.facts if isinstance(result, Decided) else facts
            ends.append(facts)
        assert ends[0] == ends[1]

    @given(st.data())
    def test_other_softwares_events_among_them_change_nothing_in_any_order(self, data: st.DataObject) -> None:
        setting = SETTING._replace(catalog=IGNORING)
        ours = data.draw(histories())
        theirs = [event("active", day, [Item("pri_theirs", 1)], subscription="sub_theirs") for day in (1, 2, 3)]
        ends = []
        for order in (ours, data.draw(st.permutations([*ours, *theirs]))):
            facts = NOTHING
            for each in order:
                result = decide(Tenant(TOPIC, facts), Delivery(each), setting)
                facts = result.facts if isinstance(result, Decided) else facts
            ends.append(facts)
        assert ends[0] == ends[1]


class TestWithoutEvent:
    """By time, the catalog, a command or the provider's own answers."""

    def look(self, facts: Facts, *fetched: Event, is_known: bool = True, **change: object) -> EventResult | Decided:
        def changed(before: Facts) -> Facts:
            return replace(before, **change)  # type: ignore[arg-type] # the fields of Facts

        return decide_without_event(Tenant(TOPIC, facts, is_known), fetched, changed, SETTING)

    def test_what_is_not_stored_is_not_projected(self) -> None:
        assert self.look(NOTHING, is_known=False) == EventResult(Outcome.UNCHANGED)
        assert isinstance(self.look(NOTHING), Decided), "facts that have become empty are"

    def test_a_change_alone_makes_a_tenant(self) -> None:
        result = self.look(NOTHING, is_known=False, overrides=(Override("feature", "sso", True, "promised"),))
        assert isinstance(result, Decided)
        assert result.state["features"]["sso"]

    def test_an_erased_tenant_is_left(self) -> None:
        result = self.look(Facts(erased_ns=1), event("active", 1))
        assert result == EventResult(Outcome.UNCHANGED, "the tenant was erased")

    def test_an_unknown_price_holds_the_state(self) -> None:
        result = self.look(NOTHING, event("active", 1, [Item("pri_new", 1)]))
        assert result == EventResult(Outcome.UNCHANGED, "unknown price pri_new in live", waits=(WAITS_CATALOG,))

    def test_an_unusable_answer_is_noted_and_the_others_count(self) -> None:
        result = self.look(NOTHING, event("quantum", 1, id="sub_odd"), event("active", 1))
        assert isinstance(result, Decided)
        assert (result.note, result.state["plan"]["key"]) == ("unknown status 'quantum'", "pro")

    def test_a_void_change_is_dropped_and_said(self) -> None:
        facts = decided(NOTHING, event("canceled", 1)).facts
        change = ScheduledPlanChange(next(iter(facts.subscriptions)), "basic", at(30), PRO)
        result = self.look(facts, scheduled_changes=(change,))
        assert isinstance(result, Decided)
        assert result.facts.scheduled_changes == ()
        assert result.note == "the scheduled change to basic is dropped: its subscription has ended"
