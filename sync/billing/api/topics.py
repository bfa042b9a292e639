"""Reconciling any topic over HTTP: with its billing provider if it has one, else with the application's backend."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from planwire_client.core.topic import RESERVED_KINDS, TENANT_KIND, Topic, TopicError
from sync.billing.api import tenants
from sync.billing.api.bodies import answers
from sync.billing.api.operations import GUARDED
from sync.billing.services.wiring import BillingServices
from sync.http.body import json_response
from sync.http.endpoint import by, require
from sync.http.fields import TOPIC_PATTERN
from sync.http.openapi import VERSION, Answer, Operation
from sync.http.parameters import PathText
from sync.http.problem import Problem
from sync.source.client import SourceError
from sync.source.hydration import ASKED_PATIENCE_S, Hydration


class Topics:
    """The operations on topics of any kind."""

    def __init__(self, services: BillingServices, billed: frozenset[str], hydration: Hydration | None) -> None:
        """Serve them.

        Args:
            billed: the environments whose tenants billing computes.
            hydration: asks the application's backend about all other topics; None: no source is set.
        """
        self._reconciliation = services.reconciliation
        self._billed = billed
        self._hydration = hydration

    @Operation(
        "POST",
        "/v1/topics/{topic:path}/reconcile",
        "reconcileTopic",
        "Compare one topic with its billing provider, or else with the source, and repair.",
        {200: Answer("What was found.", answers.Compared, VERSION)},
        (*GUARDED, "provider_unavailable", "source_unavailable"),
        ("publishKey",),
        (PathText("topic", "[env/]kind:id.", TOPIC_PATTERN, "user:42"),),
    )
    async def reconcile(self, request: Request) -> Response:
        """Answer what comparing the topic found; what differs is repaired by then."""
        topic = _asked(request)
        is_billed = topic.kind == TENANT_KIND and topic.env in self._billed
        # Billing computes a billed tenant's state; any other topic's is published.
        require(request, "tenants" if is_billed else "publish", str(topic))
        if is_billed:
            found = await tenants.reconciled(self._reconciliation, topic.env, str(topic), by(request))
            return json_response(found)
        if self._hydration is None:
            raise Problem("source_unavailable", "no source is set: nobody can be asked about this topic")
        try:
            hydrated = await self._hydration.reconcile(str(topic), "asked", ASKED_PATIENCE_S)
        except SourceError as error:
            raise Problem("source_unavailable", f"the source could not be asked: {error}") from None
        return json_response({"outcome": hydrated.outcome, "version": hydrated.version})


def _asked(request: Request) -> Topic:
    try:
        topic = Topic.parse(request.path_params["topic"])
    except TopicError as error:
        raise Problem("request_invalid", str(error)) from None
    if topic.kind in RESERVED_KINDS:
        raise Problem("request_invalid", f"topics of kind {topic.kind} are the gateways' own")
    return topic
