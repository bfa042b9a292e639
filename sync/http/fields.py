"""The fields of a request's JSON object, read one by one with a check each; what is not asked for is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sync.core import instants
from sync.http.problem import Problem

TEXT_MAX_CHARS = 500


class Fields:
    """A JSON object. Every method raises Problem where the field has another form."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values
        self._known: set[str] = set()

    def raw(self, name: str) -> object:
        """Return the field as it is, or None."""
        self._known.add(name)
        return self._values.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text that is not empty; without a default it is required."""
        value = self.raw(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value.strip() or len(value) > TEXT_MAX_CHARS:
            raise Problem("request_invalid", f"{name} must be a text of 1 to {TEXT_MAX_CHARS} characters")
        return value

    def choice(self, name: str, choices: Collection[str], default: str | None = None) -> str:
        """Return one of `choices`."""
        value = self.text(name, default)
        if value not in choices:
            raise Problem("request_invalid", f"{name} must be one of {', '.join(sorted(choices))}")
        return value

    def flag(self, name: str) -> bool:
        """Return true or false; false without it."""
        value = self.raw(name)
        if value is not None and not isinstance(value, bool):
            raise Problem("request_invalid", f"{name} must be true or false")
        return bool(value)

    def number(self, name: str, highest: int) -> int | None:
        """Return a whole number from 0 to `highest`, or None without it."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= highest:
            raise Problem("request_invalid", f"{name} must be a whole number from 0 to {highest}")
        return value

    def instant(self, name: str) -> int | None:
        """Return nanoseconds since 1970 of an RFC 3339 time, or None without it."""
        value = self.raw(name)
        try:
            return None if value is None else instants.parse(value)
        except instants.InstantError as error:
            raise Problem("request_invalid", f"{name}: {error}") from None

    def end(self) -> None:
        """Return when every field was asked for."""
        unknown = sorted(set(self._values) - self._known)
        if unknown:
            known = ", ".join(sorted(self._known))
            raise Problem("request_invalid", f"{unknown[0][:64]} is not known here: expected {known}")
