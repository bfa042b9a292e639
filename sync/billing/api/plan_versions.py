"""Which tenants have which version of a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import structlog
from pydantic import Field

from planwire_client.core.topic import Topic, decode_id
from sync.billing.api.operations import Asked, BillingOperations, Document, operation
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.held_versions import held_versions
from sync.billing.domain.facts.model import Facts
from sync.billing.storage.tenants import read_all_facts
from sync.http.fields import Model
from sync.http.openapi import Answer
from sync.http.parameters import FROM, LIMIT, QueryText

PLAN_PARAMETER = QueryText("plan", "Only of this plan, by its key in the catalog.", r"^[a-z][a-z0-9_-]{0,63}$")

_log = structlog.get_logger("sync.api")


class HeldVersion(Model):
    """The version of a plan that a live subscription, a purchase or a grant has.

    `by`: purchase or grant (of when the plan was bought or granted), price (the price is the version's own) or move
    (it was moved to it).
    """

    tenant: str
    subscription: str | None = Field(None, description="PROVIDER:ID. Absent for a granted plan.")
    plan: str
    version: str
    by: Literal["purchase", "grant", "price", "move"]


class VersionsPage(Model):
    """One page. `next`, if there may be more, is the next page's `from`.

    `catalog` has the versions of each plan that tenants can be moved to, the present one first if it has a name.
    """

    versions: list[HeldVersion]
    catalog: dict[str, list[str]]
    next: str | None = None


class PlanVersions(BillingOperations):
    """The operation on the versions that tenants have."""

    @operation(
        "GET",
        "/v1/plan-versions",
        "listPlanVersions",
        "Which tenants have which version of a plan, and why; in no order.",
        Answer("About as many as asked for; some perhaps twice.", VersionsPage),
        parameters=(PLAN_PARAMETER, LIMIT, FROM),
    )
    async def versions(self, asked: Asked, plan: str, limit: int, cursor: str) -> Document:
        """Return the versions of one page of all tenants: a page may be empty and not the last.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        environment = self._services.environment(asked.environment)
        topics, following = await environment.topics_page(cursor, limit)
        facts = await read_all_facts(self._services.store, asked.environment, topics)
        setting = self._services.setting(asked.environment)
        found = [row for topic, each in facts for row in _rows(topic, each, setting) if plan in ("", row["plan"])]
        named = {key: setting.catalog.version_names(plan) for key, plan in setting.catalog.plans.items()}
        document: Document = {"versions": found, "catalog": named}
        return document | ({"next": following} if following else {})


def _rows(topic: str, facts: Facts | str, setting: Setting) -> Iterator[Document]:
    if isinstance(facts, str):
        _log.error("facts_unreadable", topic=topic, error=facts)
        return
    tenant = decode_id(Topic.parse(topic).id)
    for subscription, plan, version, by in held_versions(facts, setting):
        by_what = {"subscription": subscription} if subscription else {}
        yield {"tenant": tenant, **by_what, "plan": plan, "version": version, "by": by}
