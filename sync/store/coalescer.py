"""What is asked of the store at the same time travels together: one round trip for all who ask while one is under way.

Alone, nobody waits; under load a round trip serves many, and most of what one costs is paid once. It knows no store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from sync.core.errors import SyncError

T = TypeVar("T")
R = TypeVar("R")

LOADS_MAX = 64
"""How many travel at once: the answers of the first wait for those of the last."""


class Coalescer(Generic[T, R]):
    """Sends loads through `send`, which answers each in order; an exception for an answer is raised to who asked.

    Who finds nothing under way drives, the others ride with the next. A SyncError of `send` is raised to all aboard.
    """

    def __init__(
        self, send: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]], gave_up: Callable[[], Exception]
    ) -> None:
        """Use `send`; riders whose driver ends before its time get what `gave_up` makes: nobody knows what was done."""
        self._send = send
        self._gave_up = gave_up
        self._waiting: list[tuple[T, asyncio.Future[tuple[R | Exception] | None]]] = []
        self._under_way = False

    async def submit(self, load: T) -> R:
        """Return the answer to one load.

        Raises:
            Exception: what `send` raised, or gave for an answer.

        Cancelled while it waits, a load is not sent; cancelled later, it may have been.
        """
        # An answer comes wrapped; None says: nobody drives any more, it is your turn.
        mine: asyncio.Future[tuple[R | Exception] | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((load, mine))
        if self._under_way:
            try:
                told = await mine
            except asyncio.CancelledError:
                if mine.done() and not mine.cancelled() and mine.result() is None:
                    self._hand_over()
                raise
        else:
            self._under_way = True
            told = None
        if told is None:
            told = await self._drive()
        (answer,) = told
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _drive(self) -> tuple[R | Exception]:
        # Who drives is the first that waits.
        aboard, self._waiting = self._waiting[:LOADS_MAX], self._waiting[LOADS_MAX:]
        answers: Sequence[R | Exception] = ()
        try:
            answers = await self._send([load for load, _ in aboard])
        except SyncError as error:
            answers = [error] * len(aboard)
        finally:
            self._hand_over()
            answers = answers or [self._gave_up()] * len(aboard)
            for (_, rider), answer in zip(aboard[1:], answers[1:], strict=True):
                if not rider.done():
                    rider.set_result((answer,))
        return (answers[0],)

    def _hand_over(self) -> None:
        """Have the first that still waits drive; where there is none, the next to come does."""
        self._waiting = [(load, rider) for load, rider in self._waiting if not rider.done()]
        if self._waiting:
            self._waiting[0][1].set_result(None)
        else:
            self._under_way = False
