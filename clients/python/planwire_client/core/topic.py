"""A topic's name, `[env/]kind:id`, parsed and checked. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

LIVE = "live"
"""The environment that a name without a prefix means."""

TENANT_KIND = "tenant"
"""The kind of the topics that billing computes."""

PROBE_KIND = "probe"
"""The kind of the gateways' own canary topics; no token reaches it and nobody publishes to it over HTTP."""

REPORT_KINDS = ("gateway", "console")
"""The kinds of what gateways report to consoles: of themselves, and of the tabs of one topic. Tokens need the scope
console to read them, and nobody publishes to them over HTTP."""

RESERVED_KINDS = (PROBE_KIND, *REPORT_KINDS)
"""The gateways' own kinds, in every environment."""

PATTERN = r"(?:[a-z][a-z0-9_-]{0,31}/)?[a-z][a-z0-9_-]{0,31}:[A-Za-z0-9._~@-]{1,128}"
"""What a name looks like, as a regular expression that every language reads. `live/` is no prefix besides."""

matched = re.compile(rf"(?!{LIVE}/){PATTERN}").fullmatch
"""Return a match if the text is a topic's name: each topic has one only. None otherwise."""


class TopicError(ValueError):
    """The text is not a topic."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `str()` gives its only spelling: the live environment has no prefix."""

    env: str
    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}" if self.env == LIVE else f"{self.env}/{self.kind}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> Topic:
        """Return the topic that `text` names.

        Raises:
            TopicError: `text` does not match, or spells the live environment out (each topic has one name only).
        """
        if matched(text) is None:
            raise TopicError(
                f"{text[:200]!r} is not a topic: expected [env/]kind:id, such as tenant:acme or sandbox/tenant:acme"
                " (live is written without a prefix)"
            )
        scope, _, identifier = text.partition(":")
        env, _, kind = scope.rpartition("/")
        return cls(env or LIVE, kind, identifier)
