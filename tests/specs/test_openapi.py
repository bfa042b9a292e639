"""A gateway that serves does what its OpenAPI document says: no 5xx, no undocumented answer, whatever is sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import BaseRoute, Route

from gateway.api.routes import routes as gateway_routes
from sync import bootstrap
from sync.billing.api import routes as billing_routes
from sync.billing.catalog.watcher import EXAMPLE
from sync.billing.providers.registry import PROVIDERS
from sync.http.endpoint import Caller, not_counted
from sync.http.problem import STATUSES
from sync.settings import SyncSettings
from sync.store.store import Store
from sync.usage.api import routes as usage_routes
from sync.usage.calls import UsageCalls
from sync.usage.meters import MetersWatcher
from sync.usage.service import UsageService
from tests.support.gateway import PUBLISH_KEY, Running, environment, run_gateway, token
from tests.support.servers import missing
from tools.docs import openapi

HERE = Path(__file__).resolve().parent
TOOL = HERE.parents[1] / ".tools" / "schemathesis" / "bin" / "st"

EXAMPLES = 25
"""Requests that each operation is tried with, on top of the systematic ones."""

METRICS_TOKEN = "a-metrics-token-for-tests-0123456789"

WITH_INTAKE = {
    "INTAKE": "1",
    **{f"{name.upper()}_SECRETS": f"live:{name}_live,sandbox:{name}_sandbox" for name in PROVIDERS},
    "CATALOG": str(EXAMPLE),
    "WAIT_MAX_MS": "20",
}

NOT_DESCRIBED = ("/demo", "/client")
"""For people's browsers: no part of the API."""


async def schemathesis(url: str, directory: Path, *options: str) -> tuple[int, str]:
    """Return the exit status and the report of a run."""
    if not TOOL.exists():
        missing("Schemathesis is not installed (make test-tools; it comes from the Python package index)")
    environ: Mapping[str, str] = {
        **os.environ,
        "PLANWIRE_TEST_TOKEN": token(scope=("read", "private")),
        "PLANWIRE_TEST_KEY": PUBLISH_KEY,
        "PLANWIRE_TEST_METRICS_TOKEN": METRICS_TOKEN,
        "NO_COLOR": "1",
    }
    process = await asyncio.create_subprocess_exec(
        str(TOOL), "--config-file", str(HERE / "schemathesis.toml"), "run", url, *options,
        cwd=directory, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.timeout(180)
async def test_every_answer_is_a_documented_one(store_url: str, tmp_path: Path) -> None:
    async with run_gateway(environment(store_url, **WITH_INTAKE, METRICS_TOKEN=METRICS_TOKEN)) as running:
        status, report = await schemathesis(
            f"{running.url}/v1/openapi.json", tmp_path,
            "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--warnings", "off",
        )  # fmt: skip
        assert status == 0, report
        assert_all_were_tried(running)


def assert_all_were_tried(running: Running) -> None:
    """The gateway counted requests to each of its routes, and to those with a good answer one of these."""
    answered = {(route, method): status for route, method, status in running.node.metrics.requests if status == 200}
    expected = {(path, operation.upper()) for path, item in described().items() for operation in item}
    own = {(path.replace("{topic}", "{topic:path}"), method) for path, method in expected if not is_intakes(path)}
    assert own - answered.keys() == {("/v1/state/{topic:path}/events", "GET"), ("/v1/connect", "GET")}
    assert ("/v1/connect", "GET", 426) in running.node.metrics.requests


async def test_a_wrong_answer_would_be_noticed(store_url: str, tmp_path: Path) -> None:
    """The same with a document that promises less than what is answered."""
    path = tmp_path / "openapi.json"
    document = openapi.encode().replace(b'"alive"', b'"dead"')
    path.write_bytes(document)
    async with run_gateway(environment(store_url)) as running:
        status, report = await schemathesis(
            str(path), tmp_path, "--url", running.url, "--include-path", "/healthz", "--max-examples", "1"
        )
    assert status == 1
    assert "/healthz" in report


def described() -> dict[str, dict[str, Any]]:
    paths: dict[str, dict[str, Any]] = openapi.document()["paths"]
    return paths


def is_intakes(path: str) -> bool:
    return path in {
        operation.path.replace(":path}", "}")
        for operation in [*billing_routes.operations(), *usage_routes.operations()]
    }


def operations(routes: list[BaseRoute]) -> set[tuple[str, str]]:
    """Return method and path of each route, as OpenAPI writes them."""
    return {
        (method.lower(), route.path.replace(":path}", "}"))
        for route in routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }


async def test_every_route_is_described_and_no_other(store: Store, store_url: str) -> None:
    environ = environment(store_url, **WITH_INTAKE)
    settings = SyncSettings.from_env({name: value for name, value in environ.items() if name != "PORT"})

    async def guard(request: object) -> Caller:
        return Caller("", lambda scope, topic: None)

    services = await bootstrap.build_services(store, settings)
    async with run_gateway(environ) as running:
        calls = UsageCalls(store, MetersWatcher(services.current_catalog))
        usage = usage_routes.routes(
            UsageService(store, calls), services.current_catalog, settings.environments, guard, not_counted
        )
        intake = [*billing_routes.routes(services, settings, guard), *usage]
        found = operations([*gateway_routes(running.node), *intake])
    assert found == {(method, path) for path, item in described().items() for method in item}


def test_every_code_is_described_somewhere() -> None:
    text = openapi.encode().decode()
    undescribed = {"method_not_allowed", "origin_forbidden", "scope_missing"}
    undescribed |= {"action_failed", "header_missing", "not_dev"}  # the console's, which is no part of the API
    assert [code for code in STATUSES if f'"{code}"' not in text] == []
    named = {
        code
        for item in described().values()
        for operation in item.values()
        for answer in operation["responses"].values()
        for content in answer.get("content", {}).values()
        for part in content["schema"].get("allOf", ())
        for code in part.get("properties", {}).get("code", {}).get("enum", ())
    }
    assert set(STATUSES) - named <= undescribed
