"""When a topic is evaluated again without an event."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.projection import Projected
from sync.billing.domain.entitlements.wakeups import ASK_AGAIN_MAX_S, ASK_AGAIN_MIN_S, EXECUTE_AGAIN_S, next_wakeup_us
from sync.billing.domain.facts.instructions import ScheduledPlanChange
from sync.billing.domain.facts.model import NOTHING, Facts
from sync.billing.domain.facts.reducer import Reduced, reduce
from sync.core import instants
from tests.support.histories import CATALOG, PRO, at, event

NOW_US = at(10) // 1000
ASKABLE = (("paddle", "live"),)


def changing(**fields: object) -> Facts:
    result = reduce(NOTHING, event("active", 1))
    assert isinstance(result, Reduced)
    key = next(iter(result.facts.subscriptions))
    change = ScheduledPlanChange(key, "basic", at(12), PRO, at(11))
    return replace(result.facts, scheduled_changes=(replace(change, **fields),))  # type: ignore[arg-type]


def wake_us(facts: Facts = NOTHING, valid_until_ns: int | None = None, since_s: float | None = None) -> int | None:
    pending = {} if since_s is None else {"pending": {"since": instants.text(NOW_US * 1000 - int(since_s * 1e9))}}
    return next_wakeup_us(Projected(dict(pending), valid_until_ns), facts, Setting(CATALOG, "live", ASKABLE, at(10)))


def test_nothing_to_come_is_never() -> None:
    assert wake_us() is None


def test_a_state_is_looked_at_when_it_may_change_and_not_before() -> None:
    assert wake_us(valid_until_ns=1_001) == 2


@pytest.mark.parametrize(
    ("since_s", "again_s"), [(0, ASK_AGAIN_MIN_S), (100, 50), (10 * ASK_AGAIN_MAX_S, ASK_AGAIN_MAX_S)]
)
def test_an_overdue_change_is_asked_about_after_half_its_delay(since_s: float, again_s: float) -> None:
    assert wake_us(since_s=since_s) == NOW_US + again_s * 1_000_000


def test_the_earliest_counts() -> None:
    assert wake_us(valid_until_ns=NOW_US * 1000 + 1_000, since_s=100) == NOW_US + 1
    assert wake_us(changing(), valid_until_ns=at(12)) == at(11) // 1000


def test_a_scheduled_change_is_made_at_its_time_and_tried_again_later() -> None:
    assert wake_us(changing()) == at(11) // 1000
    assert wake_us(changing(execute_ns=at(9))) == NOW_US, "at once, if its time has passed"
    assert wake_us(changing(execute_ns=at(9), problem="locked")) == NOW_US + EXECUTE_AGAIN_S * 1_000_000
    assert wake_us(changing(executed=True)) is None
    assert wake_us(changing(subscription="paddle:gone")) is None


def test_a_provider_that_cannot_be_asked_is_not_waited_for() -> None:
    projected = Projected({"pending": {"since": instants.text(at(1))}}, None)
    for askable in ((), (("paddle", "sandbox"),)):
        assert next_wakeup_us(projected, changing(), Setting(CATALOG, "live", askable, at(10))) is None
    stripe_alone = (("stripe", "live"),)
    assert next_wakeup_us(Projected({}, None), changing(), Setting(CATALOG, "live", stripe_alone, at(10))) is None
