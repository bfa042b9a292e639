"""Billing in the shadow of another entitlement system: its answers, what differs, and the switch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import orjson

from planwire_client.core.topic import TENANT_KIND, Topic, decode_id
from sync.billing.api.bodies import shadow as bodies
from sync.billing.api.operations import ERRORS, Asked, BillingOperations, Document, operation
from sync.billing.services.shadow.comparisons import Compared
from sync.billing.services.shadow.report import report, shown_answer
from sync.billing.storage.tenants import FactsError, billed, has_facts, is_shadow
from sync.core import instants
from sync.http.openapi import Answer
from sync.http.parameters import LIMIT
from sync.http.problem import problem_of


class Shadows(BillingOperations):
    """The operations on the shadow."""

    @operation(
        "POST",
        "/v1/tenants/{id}/shadow",
        "postShadowAnswer",
        "What the entitlement system that exists says of a tenant; compared with what billing computes.",
        Answer("What differs.", bodies.ShadowCompared),
        ("not_changed",),
        body=bodies.ShadowAnswer,
    )
    async def post(self, asked: Asked, body: bodies.ShadowAnswer) -> Document:
        """Compare a tenant with the other system's answer, and return what differs.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        return await self._compared(asked.environment, asked.topic, body)

    @operation(
        "GET",
        "/v1/tenants/{id}/shadow",
        "readTenantShadow",
        "Whether pages see what billing computes of a tenant, and how that differs from the other system.",
        Answer("As known now.", bodies.TenantShadow),
        ("not_changed",),
    )
    async def of_tenant(self, asked: Asked) -> Document:
        """Return what is known of one tenant's shadow.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        known, snapshot = self._services.environment(asked.environment), await self._services.store.read(asked.topic)
        record, is_switched = await known.shadow.record(asked.topic), await known.shadow.is_switched(asked.topic)
        is_known = has_facts(snapshot) and not snapshot.erased
        document: Document = {
            "topic": asked.topic,
            "is_known": is_known,
            "is_seen": is_known and not is_shadow(snapshot),
            "is_switched": is_switched,
            "computed": orjson.loads(billed(snapshot).state) if is_known else None,
            "compared": [],
            "differences": [],
        }
        return document | ({} if record is None else shown_answer(record))

    @operation(
        "POST",
        "/v1/shadow/answers",
        "postShadowAnswers",
        "The same of up to 500 tenants; the body may have 4 MiB.",
        Answer("What differs, for each.", bodies.ShadowResults),
        body=bodies.ShadowAnswers,
    )
    async def post_batch(self, asked: Asked, body: bodies.ShadowAnswers) -> Document:
        """Compare each tenant with its answer; one that fails stops no other."""
        results: list[Document] = []
        for one in body.answers:
            topic = str(Topic(asked.environment, TENANT_KIND, one.tenant))
            try:
                results.append(await self._compared(asked.environment, topic, one))
            except tuple(ERRORS) as error:
                problem = problem_of(error, ERRORS)
                results.append({"topic": topic, "code": problem.code, "detail": problem.detail})
        return {"results": results}

    @operation(
        "GET",
        "/v1/shadow",
        "readShadowReport",
        "How billing compares with the other system: counts by field and by plan, and examples.",
        Answer("As known now.", bodies.ShadowReport),
        parameters=(LIMIT,),
    )
    async def report(self, asked: Asked, limit: int) -> Document:
        """Return what differs now, with up to `limit` examples.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        found = await report(self._services, asked.environment, limit)
        own, problem = found.switches.tenants, found.problem
        fields = sorted(found.fields.items(), key=lambda one: (-one[1].differing, one[0]))
        plans = sorted(found.plans.items(), key=lambda one: (-one[1], one[0]))
        counts = ("is_on", "unseen", "seen", "compared", "differing", "absent", "not_compared", "waiting")
        failed = {} if problem is None else {"problem": _problem(problem)}
        return {
            **{name: getattr(found, name) for name in counts},
            **failed,
            "fields": {name: asdict(each) for name, each in fields},
            "plans": dict(plans),
            "examples": found.examples,
            "share": found.switches.share * 100,
            "switched": sorted(decode_id(id) for id, on in own.items() if on),
            "switched_back": sorted(decode_id(id) for id, on in own.items() if not on),
        }

    @operation(
        "POST",
        "/v1/shadow/switch",
        "switchShadow",
        "Let pages see what billing computes: of some tenants, of a share of them, or of all; or no longer.",
        Answer("It is switched.", bodies.ShadowSwitched),
        ("not_changed",),
        body=bodies.SwitchRequest,
        scope="admin",
    )
    async def switch(self, asked: Asked, body: bodies.SwitchRequest) -> Document:
        """Switch tenants: those with names at once; a worker switches the others.

        A tenant that fails stops no other: a worker tries it again.

        Raises:
            StoreError: the store is unreachable or failing; a repeated call completes the switch.
        """
        switches, on = self._services.shadow_switches, not body.back
        given = {"reason": body.reason, "claimed_by": body.by}
        who: Mapping[str, str] = {**{name: text for name, text in given.items() if text}, **asked.who}
        done = [await self._switched(asked.environment, id, who, on=on) for id in body.tenants or ()]
        queued = 0
        if body.share is not None:
            queued = await switches.switch_share(asked.environment, body.share / 100, who, clears=False)
        elif body.all:
            queued = await switches.switch_share(asked.environment, 1.0 if on else 0.0, who, clears=True)
        await self._services.committer.wait_durable()
        return {"tenants": done, "queued": queued}

    async def _switched(self, environment: str, id: str, who: Mapping[str, str], *, on: bool) -> Document:
        topic = str(Topic(environment, TENANT_KIND, id))
        try:
            result = await self._services.shadow_switches.switch(environment, topic, who, on=on)
        except FactsError as error:
            problem = problem_of(error, ERRORS)
            return {"topic": topic, "code": problem.code, "detail": problem.detail}
        reason = {"reason": result.reason} if result.reason else {}
        return {"topic": topic, "outcome": result.outcome, "version": result.version, **reason}

    async def _compared(self, environment: str, topic: str, body: bodies.ShadowAnswer) -> Document:
        services = self._services
        # A clock ahead of ours would let no later answer count.
        at_us = services.now_us if body.at is None else min(body.at // 1000, services.now_us)
        found = await services.shadow_comparisons.answered(environment, topic, body.answer, at_us, "posted")
        return {"topic": topic, **_shown(found)}


def _shown(found: Compared) -> dict[str, Any]:
    compared, differences = found.comparison
    outcome = "differs" if differences else "equal" if compared else "stale" if found.is_stale else "not_compared"
    return {
        "outcome": outcome,
        "compared": list(compared),
        "differences": [one._asdict() for one in differences],
    }


def _problem(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {"topic": stored["topic"], "reason": stored["reason"], "at": instants.text_us(stored["at_us"])}
