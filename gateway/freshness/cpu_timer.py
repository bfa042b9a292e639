"""What a coroutine costs: the thread's CPU seconds while it runs, without those of others while it waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any


class Metered(Generator[Any, Any, float]):
    """`await Metered(coroutine)` runs it and returns its CPU seconds; what it returns itself is dropped."""

    def __init__(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._coroutine = coroutine
        self._seconds = 0.0

    def __await__(self) -> Generator[Any, Any, float]:
        """Return the steps, each of them measured."""
        return self

    def send(self, value: Any) -> Any:
        """Run it to its next wait."""
        return self._step(self._coroutine.send, value)

    def throw(self, error: Any, value: Any = None, traceback: TracebackType | None = None) -> Any:
        """Run it to its next wait with an error raised where it waits: how a task is cancelled."""
        return self._step(self._coroutine.throw, error)

    def close(self) -> None:
        """Give it up where it waits."""
        self._coroutine.close()

    def _step(self, advance: Callable[[Any], Any], argument: Any) -> Any:
        began = time.thread_time()
        try:
            return advance(argument)
        except StopIteration:
            raise StopIteration(self._seconds + time.thread_time() - began) from None
        finally:
            self._seconds += time.thread_time() - began
