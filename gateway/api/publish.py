"""Writing over HTTP: publish one state or a batch of them, and revoke tokens. All three need a publish key."""

from __future__ import annotations

import time

import orjson
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.access import Gateway, require_key, require_right, require_scope, spend
from gateway.api.publish_request import Limits, origin, publishable, read_change
from gateway.auth import revocation_store
from gateway.auth.claims import TEXT_MAX
from gateway.auth.revocations import Revocation
from gateway.auth.rights import ANY, Scope
from planwire_client.core.headers import VERSION_HEADER
from sync.core.pauses import Pauses
from sync.http.body import read_json
from sync.http.endpoint import route
from sync.http.problem import Problem, problem_of
from sync.store.previous import with_previous
from sync.store.store import Change, Committed, StoreError, Verdict

BATCH_MAX_CONTAINERS = 100_000
"""Maximum number of objects and arrays in a batch. They determine how long parsing its JSON holds the event loop."""

REVOCABLE = frozenset(("sub", "topic", "jti"))

log = structlog.get_logger("gateway.api.routes")

BILLED = (
    "billing computes this topic from its provider's events, and a publish would erase what it knows: publish under"
    " another name, or grant features and limits beside the plan with POST /v1/tenants/{id}/overrides"
)
"""What a publisher is told of a topic that billing computes."""


def publish_routes(gateway: Gateway) -> list[Route]:
    """Return the routes that write."""
    settings, metrics, store = gateway.settings, gateway.metrics, gateway.store
    limits = Limits(settings.state_max_bytes, settings.state_max_depth)

    async def publish(request: Request) -> Response:
        key = require_key(gateway, request)
        spend(key, 1)
        require_scope(gateway, key, Scope.PUBLISH)
        item = await read_json(request, settings.body_max_bytes, settings.body_timeout_s)
        change = read_change(item, limits, origin(key.name, time.time()))
        require_right(gateway, key, Scope.PUBLISH, change.topic)
        (change,) = await with_previous(store, [change])
        committed = await store.commit(change)
        await store.wait_durable()
        metrics.verdicts[committed.verdict] += 1
        members = _members(change.topic, committed)
        headers = {VERSION_HEADER: str(committed.version)}
        if committed.verdict is Verdict.CONFLICT:
            raise Problem(
                "conflict", f"the stored version is {committed.version}, not if_version", headers=headers, extra=members
            )
        if committed.verdict is Verdict.BILLED:
            raise Problem("topic_is_billed", BILLED, headers=headers, extra=members)
        return Response(orjson.dumps(members), headers=headers, media_type="application/json")

    async def publish_batch(request: Request) -> Response:
        key = require_key(gateway, request)
        spend(key, 0)  # whose rate is used up is refused before the body is read
        require_scope(gateway, key, Scope.PUBLISH)
        try:
            body = await read_json(request, settings.batch_max_bytes, settings.body_timeout_s, BATCH_MAX_CONTAINERS)
            items = _batch(body)
            if len(items) > settings.batch_max_items:
                raise Problem("batch_too_large", f"a batch has at most {settings.batch_max_items} items")
        except Problem:
            spend(key, 1)
            raise
        spend(key, max(1, len(items)))
        by = origin(key.name, time.time())
        results: list[dict[str, object]] = []
        changes: list[Change] = []
        positions: list[int] = []
        pauses = Pauses()
        for item in items:
            await pauses.due()
            try:
                change = read_change(item, limits, by)
                require_right(gateway, key, Scope.PUBLISH, change.topic)
            except Problem as problem:
                results.append(_refusal(problem))
                continue
            positions.append(len(results))
            results.append({})
            changes.append(change)
        if changes:
            changes = await with_previous(store, changes)
            committed = await store.commit_many(changes)
            await store.wait_durable()
            for position, change, outcome in zip(positions, changes, committed, strict=True):
                if isinstance(outcome, StoreError):
                    results[position] = {"topic": change.topic, **_refusal(problem_of(outcome))}
                elif outcome.verdict is Verdict.BILLED:
                    results[position] = {"topic": change.topic, **_refusal(Problem("topic_is_billed", BILLED))}
                else:
                    results[position] = _members(change.topic, outcome)
        for result in results:
            metrics.verdicts[str(result["verdict"])] += 1
        return Response(orjson.dumps({"results": results}), media_type="application/json")

    async def revoke(request: Request) -> Response:
        key = require_key(gateway, request)
        spend(key, 1)
        require_scope(gateway, key, Scope.ADMIN)
        body = await read_json(request, settings.body_max_bytes, settings.body_timeout_s)
        now = time.time()
        revocation = gateway.auth.covering(revocation_of(body, now), now)
        # A subject or a single token may hold any topic.
        require_right(gateway, key, Scope.ADMIN, revocation.topic or ANY)
        await revocation_store.announce(
            store, revocation, keep_s=settings.revocation_keep_s, limit=settings.revocations_max
        )
        # Here it counts at once; the other gateways hear it over the bus, and so does this one, to no effect.
        gateway.revoke(revocation)
        log.info("revoked", by=key.name, kind=revocation.kind, value=revocation.value)
        return Response(orjson.dumps({"revoked": body, "at": revocation.at}), media_type="application/json")

    return [
        route("/v1/publish", "POST", publish, metrics.answered),
        route("/v1/publish/batch", "POST", publish_batch, metrics.answered),
        route("/v1/sessions/revoke", "POST", revoke, metrics.answered),
    ]


def _batch(body: object) -> list[object]:
    items = body.get("items") if isinstance(body, dict) and body.keys() == {"items"} else body
    if not isinstance(items, list):
        raise Problem("request_invalid", 'a batch is {"items": [...]}, or a JSON array of publishes or CloudEvents')
    return items


def _members(topic: str, committed: Committed) -> dict[str, object]:
    return {"topic": topic, "verdict": committed.verdict.value, "version": committed.version}


def _refusal(problem: Problem) -> dict[str, object]:
    """Return what stands in a batch's results for an item that got no verdict from the store."""
    return {"verdict": "error", "code": problem.code, "detail": problem.detail}


def revocation_of(body: object, at: float) -> Revocation:
    """Return what the request revokes: a subject, a topic, a token id, or a subject's right to a topic."""
    if not isinstance(body, dict) or not body or not body.keys() <= REVOCABLE:
        raise Problem("request_invalid", "send one of sub, topic, jti, or sub and topic together")
    for name, value in body.items():
        if not isinstance(value, str) or not 1 <= len(value) <= TEXT_MAX:
            raise Problem("request_invalid", f"{name} must be a string of 1 to {TEXT_MAX} characters")
    if "topic" in body:
        publishable(body["topic"])
    match sorted(body):
        case ["sub"]:
            return Revocation("sub", body["sub"], at)
        case ["jti"]:
            return Revocation("jti", body["jti"], at)
        case ["topic"]:
            return Revocation("topic", body["topic"], at)
        case ["sub", "topic"]:
            return Revocation("sub_topic", f"{body['topic']} {body['sub']}", at)
        case _:
            raise Problem("request_invalid", "jti stands alone: a token id needs no subject and no topic")
