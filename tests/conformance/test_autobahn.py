"""The Autobahn cases against an echo on the gateway's own WebSocket class, one test a group.

Groups 12 and 13 send 1,000 compressed messages a case in 18 sizes, up to 128 KiB, whole and in fragments, which takes
minutes of CPU. By default each of them runs seven small sizes, and of the large ones a single one, another in each
group, so that every size is run. AUTOBAHN=full runs them all, as `.ci/run` does. Nothing else is left out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from kosoku import FailureError, run_fuzzingclient

from gateway.ws import frames
from tests.support.echo import run_echo

pytestmark = pytest.mark.slow

GROUPS = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1}
"""How many cases each group has: a run of fewer has proved less."""

IS_FULL = os.environ.get("AUTOBAHN") == "full"
SMALL = (1, 2, 3, 4, 5, 6, 11)
LARGE = (7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 18)
COMPRESSED = [f"12.{n}" for n in range(1, 6)] + [f"13.{n}" for n in range(1, 8)]


def sizes(group: str) -> list[int]:
    """Return the sizes that a group runs."""
    large = LARGE[COMPRESSED.index(group) % len(LARGE)]
    return sorted((*SMALL, *(LARGE if IS_FULL else (large,))))


NOT_OFFERED = ("13.3.", "13.5.")
"""Cases that ask for a window of 512 bytes: the shared bytes have one window, so such an offer is declined, which
RFC 7692 section 7.1.2.1 allows and the suite calls unimplemented, not failed."""


@pytest.mark.parametrize("group", GROUPS)
async def test_every_case_of_a_group_passes(group: str) -> None:
    assert await run([f"{group}.*"]) == ([], GROUPS[group])


@pytest.mark.timeout(600 if IS_FULL else 120)
# The runner leaves its test data to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("group", COMPRESSED)
async def test_every_case_of_compression_passes(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The runner compares bytes with text when an answer to a compressed message is sent plain, as short ones are.
    monkeypatch.setattr(frames, "DEFLATE_MIN_BYTES", 0)
    assert await run([f"{group}.{size}" for size in sizes(group)]) == ([], len(sizes(group)))


def test_every_size_of_a_compressed_message_is_run() -> None:
    assert {size for group in COMPRESSED for size in sizes(group)} == set(range(1, 19))


async def run(cases: Sequence[str]) -> tuple[list[str], int]:
    """Return what failed, a line each, and how many cases ran."""
    async with run_echo() as port:
        try:
            results = await run_fuzzingclient(f"ws://127.0.0.1:{port}/", cases, concurrency=4)
        except FailureError as failure:
            results = failure.results
    failed = [
        f"{result.case_id}: {result.behavior.value} {result.result} / "
        f"{result.behavior_close.value} {result.result_close}"
        for result in results
        if not result.passed and not _is_declined(result.case_id, result.behavior.value, result.behavior_close.value)
    ]
    return failed, len(results)


def _is_declined(case_id: str, behavior: str, close: str) -> bool:
    return case_id.startswith(NOT_OFFERED) and behavior == "UNIMPLEMENTED" and close == "OK"
