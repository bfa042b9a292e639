"""A topic's name, `[env/]kind:id`, parsed and checked. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

LIVE = "live"
"""The environment of a name without a prefix."""

TENANT_KIND = "tenant"
"""The kind of the topics that billing computes."""

PROBE_KIND = "probe"
"""The kind of the gateways' canary topics. No token grants it, and it cannot be published to over HTTP."""

REPORT_KINDS = ("gateway", "console")
"""The kinds of the gateways' reports to consoles: on themselves, and on the tabs of one topic. Tokens need the scope
console to read them, and they cannot be published to over HTTP."""

RESERVED_KINDS = (PROBE_KIND, *REPORT_KINDS)
"""The kinds that gateways use themselves, in every environment."""

PATTERN = r"(?:[a-z][a-z0-9_-]{0,31}/)?[a-z][a-z0-9_-]{0,31}:[A-Za-z0-9._~@-]{1,128}"
"""The form of a name, as a portable regular expression. In addition, `live/` is not allowed as a prefix."""

matched = re.compile(rf"(?!{LIVE}/){PATTERN}").fullmatch
"""Return a match if the text is a topic's only valid name, else None."""


class TopicError(ValueError):
    """The text is not a topic's name."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `str()` returns its only name: the live environment has no prefix."""

    env: str
    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}" if self.env == LIVE else f"{self.env}/{self.kind}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> Topic:
        """Return the topic with the name `text`.

        Raises:
            TopicError: `text` does not match, or has the prefix `live/` (each topic has only one name).
        """
        if matched(text) is None:
            raise TopicError(
                f"{text[:200]!r} is not a topic: expected [env/]kind:id, such as tenant:acme or sandbox/tenant:acme"
                " (live is written without a prefix)"
            )
        scope, _, identifier = text.partition(":")
        env, _, kind = scope.rpartition("/")
        return cls(env or LIVE, kind, identifier)


def environment_of(name: str) -> str:
    """Return the environment in a topic's name, which is known to be valid."""
    env, slash, _ = name.partition("/")
    return env if slash else LIVE
