"""Units held for work of unknown size, as a context manager: what the work used is counted, the rest is given back."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TYPE_CHECKING, Self

from planwire_client.errors import PlanwireError, UsageDenied, UsageUnavailable
from planwire_client.usage.answers import Counted
from planwire_client.usage.attempts import OnUnavailable
from planwire_client.usage.calls import UsageCall

if TYPE_CHECKING:
    from planwire_client.usage.client import AsyncUsage, Usage

log = logging.getLogger("planwire_client")


class _Reserving:
    """The common part of both reservations.

    Attributes:
        id: of the reservation.
        used: set it to the units that the work has used. None: all that are held; if the work raises: none.
        counted: what came of the reservation, once it was made.
        finalized: what came of counting the used units, once that was done.
    """

    def __init__(self, call: UsageCall, policy: OnUnavailable) -> None:
        self.id = call.name
        self.used: int | None = None
        self.counted: Counted | None = None
        self.finalized: Counted | None = None
        self._call = call
        self._policy = policy

    def _entered(self, counted: Counted) -> None:
        self.counted = counted
        if not counted.allowed:
            raise UsageDenied(self._call.tenant, self._call.meter, self._call.amount, counted)

    def _check_new(self) -> None:
        if self.counted is not None:
            raise PlanwireError("a reservation is made once: call reserve() for each")

    def _ending(self, amount: int | None, *, is_failed: bool) -> UsageCall:
        if amount is None:
            amount = self.used if self.used is not None else 0 if is_failed else self._call.amount
        return UsageCall(self._call.tenant, self._call.meter, amount, "finalize", id=self.id)

    def _ended(self, counted: Counted) -> Counted:
        self.finalized = counted
        if not counted.is_known:
            log.warning("planwire: whether %s counts is not known: %s", self._said(), counted.reason)
        elif not counted.allowed:
            log.warning("planwire: %s was not counted: it had ended, and the units no longer fit", self._said())
        return counted

    def _said(self) -> str:
        return f"reservation {self.id} of {self._call.tenant}, {self._call.meter}"

    def _failed(self, error: Exception, work: BaseException | None) -> None:
        """Raise the error of ending the reservation, unless the work has raised one, or the policy is not to."""
        if work is None and (self._policy is OnUnavailable.RAISE or not isinstance(error, UsageUnavailable)):
            raise error
        log.warning("planwire: %s is not finalized: %s", self._said(), error)


class Reservation(_Reserving):
    """A blocking reservation. `with` makes and ends it; `begin`, `finalize` and `cancel` do so without `with`."""

    def __init__(self, usage: Usage, call: UsageCall, policy: OnUnavailable) -> None:
        super().__init__(call, policy)
        self._usage = usage

    def begin(self) -> Counted:
        """Hold the units; return what came of it.

        Raises:
            UsageDenied: they do not fit.
            UsageUnavailable: no answer, and the policy is to raise.
            UsageRefused: the call is invalid or not allowed.
        """
        self._check_new()
        counted = self._usage.call(self._call)
        self._entered(counted)
        return counted

    def finalize(self, amount: int | None = None) -> Counted:
        """Count what the work has used (default: `used`, or all that is held), and give the rest back."""
        return self._ended(self._usage.call(self._ending(amount, is_failed=False)))

    def cancel(self) -> Counted:
        """Give everything back."""
        return self.finalize(0)

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, work: BaseException | None, at: TracebackType | None) -> None:
        if self.finalized is not None:
            return
        try:
            self._ended(self._usage.call(self._ending(None, is_failed=work is not None)))
        except PlanwireError as error:
            self._failed(error, work)


class AsyncReservation(_Reserving):
    """A reservation for asyncio. `async with` makes and ends it."""

    def __init__(self, usage: AsyncUsage, call: UsageCall, policy: OnUnavailable) -> None:
        super().__init__(call, policy)
        self._usage = usage

    async def begin(self) -> Counted:
        """Do the same as `Reservation.begin`.

        Raises:
            UsageDenied: they do not fit.
            UsageUnavailable: no answer, and the policy is to raise.
            UsageRefused: the call is invalid or not allowed.
        """
        self._check_new()
        counted = await self._usage.call(self._call)
        self._entered(counted)
        return counted

    async def finalize(self, amount: int | None = None) -> Counted:
        """Count what the work has used (default: `used`, or all that is held), and give the rest back."""
        return self._ended(await self._usage.call(self._ending(amount, is_failed=False)))

    async def cancel(self) -> Counted:
        """Give everything back."""
        return await self.finalize(0)

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, work: BaseException | None, at: TracebackType | None
    ) -> None:
        if self.finalized is not None:
            return
        try:
            self._ended(await self._usage.call(self._ending(None, is_failed=work is not None)))
        except PlanwireError as error:
            self._failed(error, work)
