"""Everything that facts can have survives encoding."""

from __future__ import annotations

from dataclasses import replace

from sync.billing.domain.facts import codec
from tests.support.facts import FULL, UNSET, fields_of


def test_everything_survives_encoding() -> None:
    assert codec.decode(codec.encode(FULL)) == FULL
    one, other = FULL.awaited_previews
    first = replace(FULL, awaited_previews=(replace(one, app=""), other))
    assert codec.decode(codec.encode(first)) == first


def test_the_example_has_everything() -> None:
    """A field that is new is added to it, so that older builds are shown to read facts with that field."""
    found = list(fields_of(FULL))
    assert {name for name, _ in found} - {name for name, is_set in found if is_set} == UNSET
