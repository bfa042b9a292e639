"""The example project's views: a gated feature, an upgrade with the outbox, the browser's token, a first paint."""

from __future__ import annotations

from django.conf import settings
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from django.shortcuts import render

from examples.django_app.planwire import feature_required, metered, mint, replica, topic_of
from planwire_client import VERSION_HEADER, NotCurrent, outbox

PUSH_MAX_WAIT_S = 2.0
"""Maximum wait of an upgrade for its own push. The browser gets the push in any case."""

PRO = {"plan": {"key": "pro", "name": "Pro", "rank": 20}, "features": {"export": True}}


@feature_required("export")
def export(request: HttpRequest) -> HttpResponse:
    """Return the export, for tenants whose plan has the feature."""
    return JsonResponse({"export": "everything you have"})


@metered("reports")
def report(request: HttpRequest) -> HttpResponse:
    """Return a report, and count it. Its limit is that of the tenant whose plan billing computes."""
    return JsonResponse({"report": "everything that you did"})


def upgrade(request: HttpRequest) -> HttpResponse:
    """Change the plan, and enqueue its push in the same transaction."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    topic = topic_of(request)
    before = replica.wait_for(topic)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO tenants VALUES (%s, 'pro') ON CONFLICT (id) DO UPDATE SET plan = 'pro'", [topic]
            )
        outbox.enqueue_django(topic, PRO)
    try:
        snapshot = replica.wait_for(topic, before.version + 1, timeout_s=PUSH_MAX_WAIT_S)
    except NotCurrent:
        return JsonResponse({"plan": "pro"}, status=202)  # committed, the push comes later
    return JsonResponse({"plan": "pro"}, headers={VERSION_HEADER: str(snapshot.version)})


def browser_token(request: HttpRequest) -> HttpResponse:
    """Return a token with which the browser can read its own tenant."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    topic = topic_of(request)
    return HttpResponse(mint(f"user-of-{topic}", [topic]), content_type="text/plain")


def page(request: HttpRequest) -> HttpResponse:
    """Return the page with the current plan; the browser client continues from its version."""
    snapshot = replica.wait_for(topic_of(request))
    initial = {"topic": snapshot.topic, "version": snapshot.version, "state": snapshot.state}
    return render(request, "page.html", {"initial": initial, "gateway": settings.PLANWIRE_URL})
