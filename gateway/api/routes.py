"""Every route of the gateway's HTTP API. The process mounts them beside the intake, the console and the demo."""

from __future__ import annotations

from starlette.routing import Route

from gateway.api.access import Gateway
from gateway.api.descriptions import Descriptions
from gateway.api.events import Events
from gateway.api.health import Health
from gateway.api.metrics_endpoint import Scrape
from gateway.api.publish import Publishing
from gateway.api.readers import Readers
from gateway.api.revoke import Revoking
from gateway.api.state import States
from sync.http.endpoint import route
from sync.http.openapi import declared

DECLARING = (Events, States, Publishing, Revoking, Health, Scrape, Descriptions)
"""The classes whose methods declare the API's operations. Events first: its suffix would be part of States' topic."""


def routes(gateway: Gateway) -> list[Route]:
    """Return the routes; their answers are counted in the gateway's metrics."""
    readers = Readers(gateway)
    holders = (
        Events(gateway, readers), States(gateway, readers), Publishing(gateway), Revoking(gateway), Health(gateway),
        Scrape(gateway), Descriptions(gateway),
    )  # fmt: skip
    return [
        route(operation.path, operation.method, handler, gateway.metrics.answered)
        for holder in holders
        for operation, handler in declared(holder)
    ]
