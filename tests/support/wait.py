"""Waiting for a condition with a deadline, so that no test sleeps and hopes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")


@overload
async def until(predicate: Callable[[], Awaitable[T]], timeout_s: float = ..., every_s: float = ...) -> T: ...
@overload
async def until(predicate: Callable[[], T], timeout_s: float = ..., every_s: float = ...) -> T: ...
async def until(predicate: Callable[[], object], timeout_s: float = 5.0, every_s: float = 0.01) -> object:
    """Return the first true value of `predicate`, which may be a plain function or return an awaitable.

    An AssertionError from the predicate counts as "not yet", and is the cause of the final error.

    Raises:
        AssertionError: it was still false after `timeout_s`; the text says which predicate, and what it gave last.
    """
    deadline = time.monotonic() + timeout_s
    value: object = None
    refusal: AssertionError | None = None
    while True:
        try:
            found = predicate()
            value = await found if inspect.isawaitable(found) else found
            refusal = None
        except AssertionError as error:
            refusal = error
        if refusal is None and value:
            return value
        if time.monotonic() >= deadline:
            last = f"it raised {refusal}" if refusal is not None else f"it gave {value!r}"
            raise AssertionError(f"not true within {timeout_s:g} s: {_source_of(predicate)}; last, {last}") from refusal
        await asyncio.sleep(every_s)


def _source_of(predicate: Callable[[], object]) -> str:
    try:
        return " ".join(inspect.getsource(predicate).split())
    except (OSError, TypeError):
        return repr(predicate)
