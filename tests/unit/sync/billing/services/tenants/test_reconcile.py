"""Comparing a tenant with its provider: repairs, drift records, and what the provider does not answer."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sync.billing.domain.outcome import Outcome
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable
from tests.support.bodies import subscription
from tests.support.paddle import price_id
from tests.support.services import TOPIC, Billing, PaddleApi


@pytest.fixture(autouse=True)
def provider(services: Billing) -> PaddleApi:
    provider = PaddleApi(services)
    provider.body = subscription(items=[(price_id("pro"), 1)])
    return provider


async def reconcile(services: Billing) -> Any:
    services.clock.advance(1)
    return await services.reconciliation.reconcile("live", TOPIC, "test")


async def test_a_tenant_that_agrees_with_its_provider_is_unchanged(services: Billing) -> None:
    await services.receive()
    report = await reconcile(services)
    assert (report.result.outcome, report.asked, report.drift) == (Outcome.UNCHANGED, 1, [])


async def test_a_missed_change_is_repaired_and_recorded_as_drift(services: Billing, provider: PaddleApi) -> None:
    await services.receive()
    provider.body = subscription(items=[(price_id("basic"), 2)], updated_at="2026-11-24T00:00:00Z")
    report = await reconcile(services)
    assert report.result.outcome is Outcome.APPLIED
    assert await services.plan() == "basic"
    assert [drift.subject for drift in report.drift] == ["paddle:sub_1"]
    records, _ = await services.environment("live").drifts.page("", 10)
    assert [record["subject"] for record in records] == ["paddle:sub_1"]
    cause = orjson.loads((await services.store.read(TOPIC)).cause)
    assert (cause["source"], cause["event_type"]) == ("reconcile", "test")


@pytest.mark.parametrize("failure", [ProviderUnavailable("no answer"), ProviderRejected("forbidden", "wrong key")])
async def test_a_provider_that_does_not_answer_changes_nothing(
    services: Billing, provider: PaddleApi, failure: Exception
) -> None:
    await services.receive()
    (version,) = await services.store.versions([TOPIC])
    provider.failure = failure
    report = await reconcile(services)
    assert list(report.unasked) == ["paddle:sub_1"]
    assert report.asked == 0
    assert await services.store.versions([TOPIC]) == [version]


async def test_a_subscription_that_the_provider_does_not_have_is_reported_and_stays(
    services: Billing, provider: PaddleApi
) -> None:
    await services.receive()
    provider.failure = ProviderRejected("not_found", "no such subscription")
    report = await reconcile(services)
    assert [(drift.kind, drift.subject) for drift in report.drift] == [("unknown_there", "paddle:sub_1")]
    assert await services.plan() == "pro"


async def test_an_erased_tenant_is_not_asked_about(services: Billing, provider: PaddleApi) -> None:
    await services.receive()
    await services.erasure.erase("live", TOPIC, "asked for it", {})
    provider.asked.clear()
    report = await reconcile(services)
    assert report.result.outcome is Outcome.UNCHANGED
    assert provider.asked == []
