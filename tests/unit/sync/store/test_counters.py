"""The names of what is counted together."""

from __future__ import annotations

from sync.store import counters


def test_a_field_is_read_back() -> None:
    field = counters.field("drift", kind="differs", env="live")
    assert field == "drift kind=differs env=live"
    assert counters.parse(field) == ("drift", (("kind", "differs"), ("env", "live")))
    assert counters.parse(counters.field("erased_events")) == ("erased_events", ())
