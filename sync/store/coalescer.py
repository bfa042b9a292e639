"""Coalesces concurrent calls: callers that arrive while a batch is in flight are sent together in the next one.

A single caller is sent at once. Under load a round trip serves many callers, and most of its cost is paid once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from sync.core.errors import SyncError
from sync.store.models import StoreError

T = TypeVar("T")
R = TypeVar("R")

LOADS_MAX = 64
"""Maximum callers in one batch: the first caller's answer waits for the last one's."""


class Coalescer(Generic[T, R]):
    """Sends loads through `send`, which returns an answer for each, in order.

    The first caller sends. Callers that arrive meanwhile wait for the next batch, which the first of them sends. An
    answer that is an exception is raised to its caller. A SyncError from `send` is raised to all callers of the batch.
    If the sending caller is cancelled, the others get a StoreError: the outcome is unknown.
    """

    def __init__(self, send: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]]) -> None:
        self._send = send
        self._waiting: list[tuple[T, asyncio.Future[tuple[R | Exception] | None]]] = []
        self._under_way = False

    async def submit(self, load: T) -> R:
        """Return the answer to one load.

        The load of a caller that is cancelled while it waits is not sent. After a later cancellation it may have been.

        Raises:
            Exception: the exception that `send` raised, or returned as the answer.
        """
        # The result is a wrapped answer, or None: this caller sends the next batch.
        mine: asyncio.Future[tuple[R | Exception] | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((load, mine))
        result = None
        if self._under_way:
            try:
                result = await mine
            except asyncio.CancelledError:
                if mine.done() and not mine.cancelled() and mine.result() is None:
                    self._hand_over()
                raise
        else:
            self._under_way = True
        (answer,) = await self._send_batch() if result is None else result
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _send_batch(self) -> tuple[R | Exception]:
        # The sender is the first in `_waiting`.
        batch, self._waiting = self._waiting[:LOADS_MAX], self._waiting[LOADS_MAX:]
        answers: Sequence[R | Exception] = [StoreError("the task that sent for several was stopped")] * len(batch)
        try:
            answers = await self._send([load for load, _ in batch])
        except SyncError as error:
            answers = [error] * len(batch)
        finally:
            self._hand_over()
            for (_, caller), answer in zip(batch[1:], answers[1:], strict=True):
                if not caller.done():
                    caller.set_result((answer,))
        return (answers[0],)

    def _hand_over(self) -> None:
        """Let the first waiting caller send the next batch; if none waits, the next caller to arrive sends."""
        self._waiting = [(load, caller) for load, caller in self._waiting if not caller.done()]
        if self._waiting:
            self._waiting[0][1].set_result(None)
        else:
            self._under_way = False
