"""Publishing over HTTP: one state, or a batch of them. Both need a publish key."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.access import require_key, require_right, spend
from gateway.api.publish_request import CloudEvent, Publish, origin, read_change
from gateway.auth.publish_keys import Scope
from gateway.node import Node
from planwire_client.core.commit import BILLED
from planwire_client.core.headers import VERSION_HEADER
from sync.core.pauses import Pauses
from sync.http.body import JSON_PROBLEMS, json_response, read_json
from sync.http.fields import Model, Version
from sync.http.openapi import CODES, VERSION, Answer, Operation
from sync.http.problem import Problem, problem_of
from sync.store.models import Change, Committed as Commit, StoreError, Verdict
from sync.store.patches import with_previous

BATCH_MAX_CONTAINERS = 100_000
"""Maximum number of objects and arrays in a batch. It bounds how long parsing the JSON blocks the event loop."""

PROBLEMS = (
    "key_missing", "key_invalid", "scope_missing", *JSON_PROBLEMS, "request_invalid", "rate_limited",
    "store_unavailable",
)  # fmt: skip
"""Problem codes that every write may return."""


class Committed(Model):
    """What became of a publish, and the topic's version after it (0: still none)."""

    topic: str
    verdict: Literal["applied", "unchanged", "duplicate", "stale"]
    version: Version


class BatchResult(Model):
    """What became of one item. `error`: it was refused, or the store did not answer for it (code, detail)."""

    topic: str | None = None
    verdict: Literal["applied", "unchanged", "duplicate", "stale", "conflict", "error"]
    version: Version | None = None
    code: str | None = Field(None, json_schema_extra=CODES)
    detail: str | None = None


class Batch(Model):
    """Publishes or CloudEvents, committed in this order, each for itself."""

    items: list[Publish | CloudEvent] = Field(max_length=500)


class BatchResults(Model):
    """One result for each item, in order."""

    results: list[BatchResult]


class Publishing:
    """The routes of publishing."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @Operation(
        "POST",
        "/v1/publish",
        "publish",
        "Publish a topic's whole new state.",
        {200: Answer("What became of it.", Committed, VERSION)},
        (
            *PROBLEMS, "topic_invalid", "topic_reserved", "state_too_large", "state_too_deep", "number_unsafe",
            "topic_forbidden", "conflict", "topic_is_billed",
        ),
        ("publishKey",),
        body={"application/json": Publish | CloudEvent, "application/cloudevents+json": CloudEvent},
    )  # fmt: skip
    async def publish(self, request: Request) -> Response:
        """Commit one publish and return its verdict."""
        node, settings, store = self._node, self._node.settings, self._node.store
        key = require_key(node, request)
        require_right(node, key, Scope.PUBLISH)
        item = await read_json(request, settings.body_max_bytes, settings.body_timeout_s)
        change = read_change(item, settings, origin(key.name, time.time()))
        require_right(node, key, Scope.PUBLISH, change.topic)
        (change,) = await with_previous(store, [change])
        commit = await store.commit(change)
        await store.wait_durable()
        node.metrics.verdicts[commit.verdict] += 1
        members = _members(change.topic, commit)
        headers = {VERSION_HEADER: str(commit.version)}
        if commit.verdict is Verdict.CONFLICT:
            detail = f"the stored version is {commit.version}, not if_version"
            raise Problem("conflict", detail, headers=headers, extra=members)
        if commit.verdict is Verdict.BILLED:
            raise Problem("topic_is_billed", BILLED, headers=headers, extra=members)
        return json_response(members)

    @Operation(
        "POST",
        "/v1/publish/batch",
        "publishBatch",
        "Publish up to 500 states; the body may have 4 MiB.",
        {200: Answer("A verdict for each.", BatchResults)},
        (*PROBLEMS, "batch_too_large"),
        ("publishKey",),
        body={
            "application/json": Batch | Annotated[list[Publish | CloudEvent], Field(max_length=500)],
            "application/cloudevents-batch+json": Annotated[list[CloudEvent], Field(max_length=500)],
        },
    )
    async def publish_batch(self, request: Request) -> Response:
        """Commit a batch and return a verdict for each item."""
        node = self._node
        key = require_key(node, request, 0)  # checks the rate before the body is read
        require_right(node, key, Scope.PUBLISH)
        try:
            items = await self._read_items(request)
        except Problem:
            spend(key, 1)
            raise
        spend(key, max(1, len(items)))
        by, pauses = origin(key.name, time.time()), Pauses()
        results: list[dict[str, object]] = []
        changes: dict[int, Change] = {}
        for item in items:
            await pauses.due()
            try:
                change = read_change(item, node.settings, by)
                require_right(node, key, Scope.PUBLISH, change.topic)
            except Problem as problem:
                results.append(_error(problem))
            else:
                changes[len(results)] = change
                results.append({})
        if changes:
            for position, result in zip(changes, await self._commit(list(changes.values())), strict=True):
                results[position] = result
        for result in results:
            node.metrics.verdicts[str(result["verdict"])] += 1
        return json_response({"results": results})

    async def _read_items(self, request: Request) -> list[object]:
        settings = self._node.settings
        body = await read_json(request, settings.batch_max_bytes, settings.body_timeout_s, BATCH_MAX_CONTAINERS)
        items = body.get("items") if isinstance(body, dict) and body.keys() == {"items"} else body
        if not isinstance(items, list):
            raise Problem("request_invalid", 'a batch is {"items": [...]}, or a JSON array of publishes or CloudEvents')
        if len(items) > settings.batch_max_items:
            raise Problem("batch_too_large", f"a batch has at most {settings.batch_max_items} items")
        return items

    async def _commit(self, changes: list[Change]) -> list[dict[str, object]]:
        """Return one result for each change, in order."""
        store = self._node.store
        changes = await with_previous(store, changes)
        commits = await store.commit_many(changes)
        await store.wait_durable()
        results: list[dict[str, object]] = []
        for change, commit in zip(changes, commits, strict=True):
            if isinstance(commit, StoreError):
                results.append({"topic": change.topic, **_error(problem_of(commit))})
            elif commit.verdict is Verdict.BILLED:
                results.append({"topic": change.topic, **_error(Problem("topic_is_billed", BILLED))})
            else:
                results.append(_members(change.topic, commit))
        return results


def _members(topic: str, commit: Commit) -> dict[str, object]:
    return {"topic": topic, "verdict": commit.verdict.value, "version": commit.version}


def _error(problem: Problem) -> dict[str, object]:
    """Return the result of an item that got no verdict from the store."""
    return {"verdict": "error", "code": problem.code, "detail": problem.detail}
