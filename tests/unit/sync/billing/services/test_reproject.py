"""Reprojection without an event: a catalog edit, a command, and topics that must stay as they are."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.domain.facts.instructions import Override
from sync.billing.domain.facts.model import Facts
from sync.billing.domain.outcome import Outcome
from sync.billing.services.reproject import Refresh
from sync.billing.storage.tenants import FactsError
from sync.store.models import Change
from tests.support.services import TOPIC, Billing, billing

CAUSE = {"source": "operator"}


async def test_what_is_current_is_unchanged(services: Billing) -> None:
    applied = await services.receive()
    result = await services.reprojection.reproject("live", TOPIC, "catalog")
    assert (result.outcome, result.version) == (Outcome.UNCHANGED, applied.version)


async def test_an_edit_of_the_catalog_reaches_the_state(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(EXAMPLE.read_text())
    watcher = CatalogWatcher(path)
    with billing(watcher) as services:
        await services.receive()
        path.write_text(EXAMPLE.read_text().replace('"export", "sso"', '"export", "sso", "scim"'))
        os.utime(path, (1, 1))
        result = await services.reprojection.reproject("live", TOPIC, "catalog")
        assert result.outcome is Outcome.APPLIED
        assert (await services.state())["features"]["scim"] is True


async def test_a_change_of_the_facts_is_projected_and_bound_to_a_version(services: Billing) -> None:
    version = (await services.receive()).version
    override = Override("limit", "projects", 5, "support")

    def with_override(facts: Facts) -> Facts:
        return replace(facts, overrides=(override,))

    late = Refresh(CAUSE, change=with_override, if_version=version - 1)
    assert (await services.reprojection.refresh("live", TOPIC, late)).result.outcome is Outcome.CONFLICT
    commit = await services.reprojection.refresh(
        "live", TOPIC, Refresh(CAUSE, change=with_override, if_version=version)
    )
    assert commit.result.outcome is Outcome.APPLIED
    assert (await services.state())["limits"]["projects"] == 5


async def test_a_published_topic_has_no_facts_and_stays(services: Billing) -> None:
    await services.store.commit(Change(TOPIC, b'{"plan":{"key":"gold"}}'))
    result = await services.reprojection.reproject("live", TOPIC, "catalog")
    assert result.outcome is Outcome.UNCHANGED
    assert await services.plan() == "gold"


async def test_facts_that_this_build_cannot_read_leave_the_state(services: Billing) -> None:
    await services.receive()
    snapshot = await services.store.read(TOPIC)
    unknown = orjson.dumps({"v": 99, "of": "a newer build"})
    await services.store.commit(Change(TOPIC, snapshot.state, unknown, if_rev=snapshot.rev, owner="billing"))
    with pytest.raises(FactsError, match=TOPIC):
        await services.reprojection.reproject("live", TOPIC, "catalog")
    assert await services.plan() == "pro"
