"""The version header: written, read, and not believed when it cannot be."""

from __future__ import annotations

import pytest

from planwire_client import VERSION_HEADER, read_version, write_version

NOW = 1_795_395_356.0


def test_what_is_written_is_read() -> None:
    headers: dict[str, str] = {}
    write_version(headers, 1_795_395_356_406_607)
    assert read_version(headers, NOW) == 1_795_395_356_406_607


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "١٢", "1" * 17, "9007199254740991", "1795395999000000"])
def test_what_is_no_version_or_from_the_future_counts_as_none(value: str) -> None:
    assert read_version({VERSION_HEADER: value}, NOW) == 0


def test_no_header_is_no_version() -> None:
    assert read_version({}, NOW) == 0
