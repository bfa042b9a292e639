"""What commit.lua writes onto the bus, and what is refused there."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from planwire_client.core.commit import BILLING, PUBLISHER
from sync.core import announcement
from sync.core.announcement import Announcement
from tests.support.announcements import payload_of

VERSIONS = st.integers(1, 2**53 - 1)


@given(
    version=VERSIONS,
    cause=st.binary(max_size=30),
    patched=st.none() | st.tuples(VERSIONS, st.binary(min_size=1, max_size=30)),
    state=st.binary(min_size=1, max_size=60),
    owner=st.sampled_from([BILLING, PUBLISHER]),
    erased=st.booleans(),
)
def test_what_is_encoded_is_parsed(
    version: int, cause: bytes, patched: tuple[int, bytes] | None, state: bytes, owner: str, erased: bool
) -> None:
    base, patch = patched or (0, b"")
    version = max(version, base + 1)
    one = Announcement(version, base, cause, patch, state, owner, erased)
    payload = payload_of(one)
    assert announcement.parse(payload) == one
    # The builds before read four numbers, and blanks around them are none of the numbers.
    header = payload[: payload.index(b"\n")]
    assert [int(number) for number in header.split(b" ")] == [version, base, len(cause), len(patch)]
    bare = Announcement(version, base, cause, patch, state)
    assert announcement.parse(payload_of(bare))[:5] == bare[:5]


@pytest.mark.parametrize("flags", [b"", b"\r", b"\t"])
def test_what_a_cause_says_is_no_erasure(flags: bytes) -> None:
    cause = b'{"source":"operator","event_type":"tenant.erased"}'
    assert announcement.parse(b"5 0 %d 0%b\n%bnull" % (len(cause), flags, cause)).erased is False


def test_the_form_is_the_documented_one() -> None:
    one = Announcement(1795395361917033, 1795395356406607, b'{"source":"paddle"}', b'{"a":2}', b'{"a":2,"b":3}')
    assert payload_of(one) == b'1795395361917033 1795395356406607 19 7\n{"source":"paddle"}{"a":2}{"a":2,"b":3}'


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\n",
        b"{}",
        b"1 0 0 0",
        b"1 0 0 0\n",
        b"1 0 0\n{}",
        b"1 0 0 0 0\n{}",
        b"0 0 0 0\n{}",
        b"-1 0 0 0\n{}",
        b"1 -1 0 0\n{}",
        b"1 0 -1 0\n{}",
        b"1 0 0 -1\n{}",
        b"1 0 2 0\n{}",
        b"1 0 0 2\n{}",
        b"1 0 99 0\n{}",
        b"1.5 0 0 0\n{}",
        b"1e9 0 0 0\n{}",
        b"a 0 0 0\n{}",
        # A base without a patch would make a frame that is not JSON; a patch without a base nobody can use.
        b"2 1 0 0\n{}",
        b"2 0 0 2\n{}{}",
        b"2 2 0 2\n{}{}",
        b"2 3 0 2\n{}{}",
    ],
)
def test_anything_else_is_a_value_error(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the contract is the class
        announcement.parse(payload)


@given(st.binary(max_size=80))
def test_no_payload_does_more_than_raise_value_error(payload: bytes) -> None:
    try:
        parsed = announcement.parse(payload)
    except ValueError:
        return
    assert parsed.version >= 1
    assert parsed.state
