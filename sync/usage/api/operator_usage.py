"""What the console of the same process shows of a tenant's usage, and its corrections, as documents without HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import orjson

from planwire_client.core.topic import Topic
from sync.billing.api.operations import ERRORS, Asked, Document, known_environment
from sync.billing.catalog.catalog import Catalog
from sync.http.endpoint import trusted
from sync.http.fields import Reader
from sync.http.problem import Problem, problem_of
from sync.usage.api import bodies
from sync.usage.api.records import call_document, correction_document, window_document
from sync.usage.api.routes import UsageOperations
from sync.usage.calls import Call
from sync.usage.records import read_records
from sync.usage.service import UsageService

_ADJUST = Reader(bodies.Adjust)
_GRANT = Reader(bodies.Grant)


class OperatorUsage:
    """The documents and commands. A failure raises Problem, with the same code as the HTTP route."""

    def __init__(self, service: UsageService, catalog: Callable[[], Catalog], environments: tuple[str, ...]) -> None:
        self._service = service
        self._catalog = catalog
        self._environments = environments
        self._operations = UsageOperations(service, catalog)

    async def usage(self, tenant: Topic) -> Document:
        """Return what a tenant has used of each meter, and what is kept of its calls, corrections and windows.

        Meters are in the order of the catalog, each with its application. Without meters there is no question to the
        store.
        """
        known_environment(tenant.env, self._environments)
        if not self._catalog().meters:
            return {"version": 0, "entitlements": 0, "meters": [], "calls": [], "corrections": [], "windows": []}
        return await self._answer(self._usage(str(tenant)))

    async def adjust(self, tenant: Topic, meter: str, correction: Mapping[str, object], by: str) -> Document:
        """Correct what is used, given as the route's body. `by` goes into the history."""
        body = _ADJUST.read(correction)
        return await self._answer(self._operations.adjust(self._asked(tenant, by), meter, body))

    async def grant(self, tenant: Topic, meter: str, credits: Mapping[str, object], by: str) -> Document:
        """Give credits, given as the route's body. `by` goes into the history."""
        body = _GRANT.read(credits)
        return await self._answer(self._operations.grant(self._asked(tenant, by), meter, body))

    async def _usage(self, tenant: str) -> Document:
        found = await self._service.call(Call(tenant, "show"))
        records = await read_records(self._service.store, tenant)
        counted = orjson.loads(found.meters)
        return {
            "version": found.usage_version,
            "entitlements": found.version,
            "meters": [
                {"meter": name, "app": meter.app, **counted[name]}
                for name, meter in self._catalog().meters.items()
                if name in counted  # a catalog that was edited meanwhile may have another
            ],
            "calls": [{"meter": one.meter, **call_document(one)} for one in records.calls],
            "corrections": [{"meter": one.meter, **correction_document(one)} for one in records.corrections],
            "windows": [{"meter": one.meter, **window_document(one)} for one in records.windows],
        }

    def _asked(self, tenant: Topic, by: str) -> Asked:
        known_environment(tenant.env, self._environments)
        return Asked(tenant.env, str(tenant), trusted(by))

    async def _answer(self, document: Awaitable[Document]) -> Document:
        """Return the document, or raise the problem that the HTTP route would answer."""
        try:
            return await document
        except Problem:
            raise
        except tuple(ERRORS) as error:
            raise problem_of(error, ERRORS) from error
