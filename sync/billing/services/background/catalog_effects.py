"""What an edit of the catalog changes for each tenant in the store. It reads, and writes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from planwire_client.core.topic import Topic, decode_id
from sync.billing.catalog.difference import Difference, compared
from sync.billing.domain.entitlements.items import Setting
from sync.billing.domain.entitlements.projection import State, Unprojectable, project
from sync.billing.domain.facts.model import NOTHING, Facts
from sync.billing.storage.environment import Environment
from sync.billing.storage.tenants import read_all_facts
from sync.store.store import Store

PAGE = 500
"""Tenants read in one round trip."""


class Effect(NamedTuple):
    """One tenant's plan before and after the edit, and what it gains and loses.

    `problem`: why one of the two catalogs cannot be applied to it; "" for none.
    """

    tenant: str
    before: str
    after: str
    difference: Difference
    problem: str = ""


async def effects(store: Store, old: Setting, new: Setting) -> AsyncIterator[Effect]:
    """Yield the effect of an edit on every tenant of the settings' environment, also on those whom it does not change.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    environment = old.environment
    known, seen, cursor = Environment(store, environment, lease_s=1), set[str](), "0"
    while cursor:
        topics, cursor = await known.topics_page(cursor, PAGE)
        new_topics = [topic for topic in topics if topic not in seen]
        seen.update(new_topics)
        for topic, facts in await read_all_facts(store, environment, new_topics):
            if isinstance(facts, str):
                yield Effect(topic, "", "", Difference([], [], []), facts)
            elif facts != NOTHING and facts.erased_ns is None:
                yield effect_of(decode_id(Topic.parse(topic).id), facts, old, new)


def effect_of(tenant: str, facts: Facts, old: Setting, new: Setting) -> Effect:
    """Return what an edit changes for one tenant. What cannot be projected stays as it was published."""
    before, after = project(facts, old), project(facts, new)
    if isinstance(before, Unprojectable) or isinstance(after, Unprojectable):
        failed = before if isinstance(before, Unprojectable) else after
        reason = failed.reason if isinstance(failed, Unprojectable) else ""
        return Effect(tenant, "", "", Difference([], [], []), f"what was published stays: {reason}")
    old_plan, new_plan = (each.state.get("plan", {}).get("key", "") for each in (before, after))
    return Effect(tenant, old_plan, new_plan, _difference(before.state, after.state))


def _difference(before: State, after: State) -> Difference:
    """Return the difference of two states: of each application by itself, if both have some."""
    if "apps" not in before or "apps" not in after:
        return compared(_named(before), _named(after))
    found = Difference([], [], [])
    for app in sorted({*before["apps"], *after["apps"]}):
        each = compared(*[_named(state["apps"].get(app, {})) for state in (before, after)])
        for lines, more in zip(found, each, strict=True):
            lines += [f"{app}: {line}" for line in more]
    return found


def _named(state: State) -> State:
    credits = {name: sum(each["amount"] for each in grants) for name, grants in state.get("credits", {}).items()}
    return {**state, "name": state.get("plan", {}).get("name"), "credits": credits}
