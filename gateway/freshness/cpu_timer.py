"""`CpuTimer` measures the CPU time of a coroutine."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any


class CpuTimer(Generator[Any, Any, float]):
    """`await CpuTimer(coroutine)` runs the coroutine and returns its CPU seconds; the coroutine's result is dropped.

    Time in which it waits is not counted.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._coroutine = coroutine
        self._seconds = 0.0

    def __await__(self) -> Generator[Any, Any, float]:
        """Return the steps, each measured."""
        return self

    def send(self, value: Any) -> Any:
        """Run the coroutine to its next wait."""
        return self._step(self._coroutine.send, value)

    def throw(self, error: Any, value: Any = None, traceback: TracebackType | None = None) -> Any:
        """Raise an error where the coroutine waits, and run it to its next wait. Cancellation uses this."""
        return self._step(self._coroutine.throw, error)

    def close(self) -> None:
        """Close the coroutine."""
        self._coroutine.close()

    def _step(self, advance: Callable[[Any], Any], argument: Any) -> Any:
        began = time.thread_time()
        try:
            return advance(argument)
        except StopIteration:
            raise StopIteration(self._seconds + time.thread_time() - began) from None
        finally:
            self._seconds += time.thread_time() - began
