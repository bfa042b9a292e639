"""The words for a subscription's status are the same in states, the browser client's types, the demo and the docs."""

from __future__ import annotations

import re

from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.projection import Projected, project
from sync.billing.domain.facts.model import KNOWN_STATUSES, NOTHING
from sync.billing.domain.facts.reducer import Reduced, reduce
from tests.support.bodies import ROOT
from tests.support.histories import CATALOG, at, event


def shown(status: str) -> str:
    reduced = reduce(NOTHING, event(status, 1))
    assert isinstance(reduced, Reduced)
    projected = project(reduced.facts, Setting(CATALOG, "live", (), at(2)))
    assert isinstance(projected, Projected)
    return str(projected.state["status"])


WORDS = {"none", *map(shown, KNOWN_STATUSES)}


def words(path: str, part: str, word: str) -> set[str]:
    """The words in the part of a file that matches."""
    found = re.search(part, (ROOT / path).read_text(), re.DOTALL)
    assert found, path
    return set(re.findall(word, found[1]))


def test_every_place_has_the_words_of_states() -> None:
    assert words("clients/js-snippet/planwire.d.ts", r'    status: ("none".*?);', r'"(\w+)"') == WORDS
    assert words("gateway/dev/demo/format.js", r"const STATUSES = \{(.*?)\};", r"  (\w+): ") == WORDS
    assert words("docs/providers.md", r"## Statuses\n(.*?)\n## ", r"(?m)^\| `(\w+)` \|") - {"status"} == WORDS
