"""The names of what is counted together."""

from __future__ import annotations

from sync.state import tallies


def test_a_field_is_read_back() -> None:
    field = tallies.field("drift", kind="differs", env="live")
    assert field == "drift kind=differs env=live"
    assert tallies.parse(field) == ("drift", (("kind", "differs"), ("env", "live")))
    assert tallies.parse(tallies.field("erased_events")) == ("erased_events", ())
