"""What a meter's script is to count, written again in plain Python: lots of units, and what reservations took."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import orjson

NEVER = math.inf


@dataclass(eq=False)
class Lot:
    """Units that can be taken: those of the window, or of one grant of credits."""

    amount: float
    ends: float
    by_operator: bool = False
    taken: int = 0

    @property
    def spent(self) -> int:
        return int(min(self.taken, self.amount))


@dataclass
class Hold:
    amount: int
    ends: int
    meter: str
    parts: list[tuple[Lot, int]]


@dataclass
class Meter:
    """One meter: the lot of its window, and its grants by id."""

    window: Lot = field(default_factory=lambda: Lot(0, NEVER))
    starts: int = 0
    grants: dict[str, Lot] = field(default_factory=dict)
    terms: dict[str, Any] = field(default_factory=dict)
    windows: list[int] = field(default_factory=list)

    def lots(self) -> list[Lot]:
        """Return the lots in the order in which they are used: what ends first, and of two the window's."""
        named = sorted(self.grants.items(), key=lambda item: (item[1].ends, item[0]))
        found = [(lot.ends, 1, lot) for _, lot in named]
        found.append((self.window.ends, 0, self.window))
        return [lot for _, _, lot in sorted(found, key=lambda each: each[:2])]

    @property
    def total(self) -> int:
        return self.window.taken + sum(lot.spent for lot in self.grants.values())

    @property
    def limit(self) -> float:
        return float(self.window.amount + sum(lot.amount for lot in self.grants.values()))

    def fits(self, amount: int) -> bool:
        if self.terms["overage"] == "allow":
            return True
        return self.total + amount <= self.limit or (self.terms["overage"] == "soft" and self.total < self.limit)

    def take(self, amount: int) -> list[tuple[Lot, int]]:
        parts = []
        for lot in self.lots():
            units = int(max(0, min(lot.amount - lot.taken, amount)))
            lot.taken += units
            amount -= units
            parts.append((lot, units))
        if amount:
            self.window.taken += amount
            parts = [(lot, units + (amount if lot is self.window else 0)) for lot, units in parts]
        return parts

    def release(self, amount: int) -> None:
        for lot in reversed(self.lots()):
            units = min(lot.taken if lot is self.window else lot.spent, amount)
            if units:
                lot.taken = (lot.taken if lot is self.window else lot.spent) - units
            amount -= units

    def new_window(self, starts: int, ends: float) -> None:
        self.window, self.starts = Lot(self.window.amount, ends), starts


class Model:
    """All meters of one tenant."""

    def __init__(self) -> None:
        self.meters: dict[str, Meter] = {}
        self.holds: dict[str, Hold] = {}
        self.keys: dict[str, tuple[object, ...]] = {}

    def adopt(self, told: bytes, now: int) -> None:
        """Take over new terms."""
        for name, each in orjson.loads(told)["meters"].items():
            meter, new = self.meters.setdefault(name, Meter()), orjson.loads(each["terms"])
            starts = max((at for at in each["windows"] if at <= now), default=0)
            ends = min((at for at in each["windows"] if at > now), default=NEVER)
            changed = bool(meter.terms) and meter.terms["plan"] != new["plan"]
            if now >= meter.window.ends or (0 < meter.starts < starts and not changed):
                meter.new_window(starts, ends)
            elif changed:
                self._change_plan(name, meter, new)
            meter.starts = max(meter.starts, starts) if meter.window.ends > now else starts
            limit = new.get("limit", 0)
            meter.window.amount, meter.window.ends = (math.inf if limit == -1 else limit), ends
            meter.terms, meter.windows = new, each["windows"]
            told_grants = {grant[0]: grant for grant in each["grants"]}
            for key, (_, amount, grant_ends) in told_grants.items():
                lot = meter.grants.setdefault(key, Lot(0, NEVER))
                lot.amount, lot.ends = amount, grant_ends or NEVER
            for key, lot in list(meter.grants.items()):
                if not lot.by_operator and key not in told_grants:
                    lot.amount = 0

    def _change_plan(self, name: str, meter: Meter, new: dict[str, Any]) -> None:
        held = sum(
            units for hold in self.holds.values() if hold.meter == name for lot, units in hold.parts
            if lot is meter.window
        )  # fmt: skip
        held = min(held, meter.window.taken)
        old_limit, new_limit = meter.terms.get("limit", 0), new.get("limit", 0)
        if new["change"] == "reset":
            meter.window.taken = held
        elif new["change"] == "scale" and old_limit > 0 and new_limit > 0:
            meter.window.taken = held + math.ceil((meter.window.taken - held) * new_limit / old_limit)

    def tick(self, now: int) -> None:
        """End what has ended."""
        for key, hold in list(self.holds.items()):
            if hold.ends <= now:
                self._give(self.meters[hold.meter], hold, hold.amount)
                del self.holds[key]
        for meter in self.meters.values():
            meter.grants = {key: lot for key, lot in meter.grants.items() if lot.ends > now}
            if now >= meter.window.ends:
                starts = max(at for at in meter.windows if at <= now)
                meter.new_window(starts, min((at for at in meter.windows if at > now), default=NEVER))

    def held(self, name: str) -> int:
        meter = self.meters[name]
        return sum(
            hold.amount for hold in self.holds.values() if hold.meter == name and self._window_of(hold) is meter.window
        )

    def _window_of(self, hold: Hold) -> Lot:
        return hold.parts[-1][0]

    def _give(self, meter: Meter, hold: Hold, amount: int) -> None:
        missing = 0
        for lot, taken in reversed(hold.parts[:-1]):
            units = min(taken, amount)
            amount -= units
            if lot is meter.window:
                missing += max(units - lot.taken, 0)
                lot.taken = max(lot.taken - units, 0)
            elif lot in meter.grants.values():
                missing += int(max(min(units, lot.amount) - lot.taken, 0))
                lot.taken = max(lot.taken - units, 0)
        meter.release(missing)

    def call(self, now: int, operation: str, name: str, amount: int, **more: Any) -> tuple[bool, int, int, float]:
        """Return whether it is allowed, units used and held, and the limit."""
        self.tick(now)
        meter, allowed = self.meters[name], True
        free, ident = max(meter.total - self.held(name), 0), more.get("id", "")
        hold = self.holds.get(ident) if operation in ("reserve", "finalize", "cancel") else None
        if (key := more.get("key")) and key in self.keys:
            return True, max(meter.total - self.held(name), 0), self.held(name), meter.limit
        if operation == "consume" and (allowed := meter.fits(amount)):
            meter.take(amount)
        elif operation == "release":
            meter.release(min(amount, free))
        elif operation in ("set", "adjust"):
            change = max(amount, -free) if ident == "by" else amount - free
            allowed = operation == "adjust" or change <= 0 or meter.fits(change)
            if change < 0:
                meter.release(-change)
            elif allowed:
                meter.take(change)
        elif operation == "reserve" and hold is None and (allowed := meter.fits(amount)):
            parts = [*meter.take(amount), (meter.window, 0)]
            self.holds[ident] = Hold(amount, now + more["lasts_us"], name, parts)
        elif operation in ("finalize", "cancel"):
            used = amount if operation == "finalize" else 0
            if hold is not None:
                self._give(meter, hold, max(hold.amount - used, 0))
                meter.take(max(used - hold.amount, 0))
                del self.holds[ident]
            elif used and (allowed := meter.fits(used)):
                meter.take(used)
        elif operation == "grant":
            meter.grants[ident] = Lot(amount, more["ends_us"] or NEVER, by_operator=True)
        if key and allowed:
            self.keys[key] = (operation, name, amount)
        return allowed, max(meter.total - self.held(name), 0), self.held(name), meter.limit
