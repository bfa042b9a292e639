"""What backends and operators do with one tenant over HTTP: reconcile it, and see what drifted.

Thin: it reads requests and shows what `sync.billing` found. Every route is behind the guard.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sync.billing.pipeline import TENANT_KIND, Pipeline
from sync.billing.reconcile import Reconciliation, Report
from sync.refusal import Guard, Refusal, asked_environment, json_response, page_limit
from sync.state.store import StoreError
from sync.state.topic import Topic, TopicError

Handler = Callable[[Request, str], Awaitable[Response]]
"""Answers a request about an environment; may raise Refusal and StoreError."""


def routes(pipeline: Pipeline, environments: tuple[str, ...], guard: Guard) -> list[Route]:
    """Return the routes about tenants, all behind `guard`."""
    desk = _Desk(pipeline)

    def route(path: str, handler: Handler, method: str) -> Route:
        async def answer(request: Request) -> Response:
            refused = await guard(request)
            if refused is not None:
                return refused
            try:
                return await handler(request, asked_environment(request, environments))
            except Refusal as refusal:
                return refusal.response()
            except StoreError:
                return Refusal("store_unavailable", "the store did not answer").response()

        return Route(path, answer, methods=[method])

    return [
        route("/v1/drift", desk.drift, "GET"),
        route("/v1/tenants/{id}/reconcile", desk.reconcile, "POST"),
    ]


class _Desk:
    """The routes."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._reconciliation = Reconciliation(pipeline)

    async def drift(self, request: Request, environment: str) -> Response:
        """Answer one page of drift records, the newest first, and how many of each kind there ever were."""
        drifts = self._pipeline.environment(environment).drifts
        before, limit = request.query_params.get("before", ""), page_limit(request.query_params.get("limit"))
        if not all(part.isdigit() and part.isascii() and len(part) <= 20 for part in before.split("-") if before):
            raise Refusal("request_invalid", "before is not a cursor: pass what `next` said")
        records, following = await drifts.page(before, limit)
        document: dict[str, object] = {"drift": records, "counts": await drifts.counts()}
        return json_response(document | ({"next": following} if following else {}))

    async def reconcile(self, request: Request, environment: str) -> Response:
        """Answer what comparing the tenant with its provider found; what differs is repaired by then."""
        topic = _topic(request, environment)
        if not self._reconciliation.can_ask(environment):
            raise Refusal("provider_unavailable", f"no API key is set for {environment}: nobody can be asked")
        report = await self._reconciliation.reconcile(environment, topic, "asked")
        if report.unasked and not report.asked:
            reason = next(iter(report.unasked.values()))
            raise Refusal("provider_unavailable", f"the provider could not be asked: {reason}")
        return json_response(_shown(report))


def _topic(request: Request, environment: str) -> str:
    try:
        topic = Topic.parse(f"{TENANT_KIND}:{request.path_params['id']}")
    except TopicError as error:
        raise Refusal("request_invalid", str(error)) from None
    return str(Topic(environment, TENANT_KIND, topic.id))


def _shown(report: Report) -> dict[str, object]:
    receipt = report.receipt
    return {
        "outcome": receipt.outcome,
        "version": receipt.version,
        "asked": report.asked,
        "unasked": report.unasked,
        "drift": [entry.shown() for entry in report.drift],
        **({"reason": receipt.reason} if receipt.reason else {}),
    }
