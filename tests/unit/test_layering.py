"""The layers of the code, read off its imports: who may import whom, what is pure, where everything may be caught."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT / root).with_suffix("").parts).removesuffix(".__init__"): path
    for root, package in ((".", "gateway"), (".", "sync"), ("clients/python", "planwire_client"))
    for path in sorted((ROOT / root / package).rglob("*.py"))
}
TREES = {module: ast.parse(path.read_text("utf-8")) for module, path in MODULES.items()}

MAY_NOT_IMPORT = {
    "planwire_client": ["sync", "gateway"],
    "planwire_client.core": [
        "planwire_client.api",
        "planwire_client.change",
        "planwire_client.delivery",
        "planwire_client.errors",
        "planwire_client.http",
        "planwire_client.meter_usage",
        "planwire_client.outbox",
        "planwire_client.publisher",
        "planwire_client.replica",
        "planwire_client.store",
        "planwire_client.usage",
    ],
    "planwire_client.replica": [
        "planwire_client.change",
        "planwire_client.http",
        "planwire_client.outbox",
        "planwire_client.publisher",
        "planwire_client.store",
        "planwire_client.usage",
    ],
    "planwire_client.usage": [
        "planwire_client.commit_batch",
        "planwire_client.outbox",
        "planwire_client.publisher",
        "planwire_client.replica",
        "planwire_client.store",
    ],
    "sync": ["gateway"],
    "sync.core": ["sync.process", "sync.store", "sync.http", "sync.billing", "sync.source", "sync.outbox"],
    "sync.process": ["sync.store", "sync.http", "sync.billing", "sync.source", "sync.outbox"],
    "sync.store": ["sync.http", "sync.billing", "sync.source", "sync.outbox", "sync.settings"],
    "sync.store.embedded": ["sync.store.checks", "sync.store.redis", "sync.store.store"],
    "sync.store.redis": ["sync.store.checks"],
    "sync.source": [
        *("sync.http", "sync.outbox", "sync.bootstrap", "sync.worker"),
        *(f"sync.billing.{room}" for room in ("storage", "services", "api")),
    ],
    "sync.outbox": ["sync.http", "sync.billing", "sync.source", "sync.bootstrap", "sync.worker"],
    "sync.http": ["sync.billing", "sync.source", "sync.outbox", "sync.settings", "sync.simulator"],
    "sync.billing.catalog": ["sync.process", "sync.store", "sync.http", "sync.settings"]
    + [f"sync.billing.{room}" for room in ("domain", "providers", "storage", "services", "api")],
    "sync.billing.domain": ["sync.process", "sync.store", "sync.http", "sync.source", "sync.settings"]
    + [f"sync.billing.{room}" for room in ("providers", "storage", "services", "api")],
    "sync.billing.domain.money": [
        f"sync.billing.domain.{one}"
        for one in ("facts", "entitlements", "decision", "tenant_naming", "tenant_resolution")
    ],
    "sync.billing.domain.facts": [
        "sync.billing.catalog",
        *(
            f"sync.billing.domain.{one}"
            for one in (
                "entitlements",
                "conclusion",
                "decision",
                "refund_decision",
                "tenant_naming",
                "tenant_resolution",
            )
        ),
    ],
    "sync.billing.domain.entitlements": [
        f"sync.billing.domain.{one}" for one in ("decision", "tenant_naming", "tenant_resolution")
    ],
    "sync.billing.providers": [
        *("sync.http", "sync.billing.storage", "sync.billing.services", "sync.billing.api", "sync.billing.catalog"),
        *("sync.billing.domain.entitlements", "sync.billing.domain.decision", "sync.settings", "sync.bootstrap"),
    ],
    "sync.simulator": ["sync.http", "sync.store", "sync.bootstrap", "sync.worker"],
    "sync.simulator.world": ["sync.simulator.paddle", "sync.simulator.scenarios", "sync.simulator.provider"],
    "sync.billing.storage": [
        *("sync.http", "sync.billing.services", "sync.billing.api", "sync.billing.catalog", "sync.settings"),
        "sync.billing.domain.entitlements",
        *(f"sync.billing.providers.{one}" for one in ("api_client", "rate_limit", "registry", "settings")),
    ],
    "sync.billing.services": ["sync.http", "sync.billing.api", "sync.bootstrap"],
    **{
        f"sync.billing.services.{one}": [
            f"sync.billing.services.{room}" for room in ("events", "tenants", "shadow", "background")
        ]
        for one in ("context", "committer", "move", "reproject")
    },
    "sync.billing.services.events": [
        f"sync.billing.services.{one}" for one in ("tenants", "shadow", "background", "wiring")
    ],
    "sync.billing.services.tenants": ["sync.billing.services.shadow", "sync.billing.services.background"],
    "sync.billing.services.shadow": [f"sync.billing.services.{one}" for one in ("events", "tenants", "background")],
    "sync.billing.services.wiring": ["sync.billing.services.background"],
    "sync.billing.api": ["sync.billing.services.background", "sync.bootstrap", "sync.worker"],
    "sync.usage": ["sync.billing.services", "sync.billing.storage", "sync.source", "sync.outbox"],
    "sync.billing": ["sync.usage"],
    "sync.bootstrap": ["sync.http", "sync.billing.api", "sync.worker"],
    "sync.worker": ["sync.http", "sync.billing.api"],
    "gateway.hub": [
        "gateway.api",
        "gateway.console",
        "gateway.server",
        "gateway.node",
        "gateway.app",
        "gateway.bus",
        "gateway.freshness",
        *(f"gateway.ws.{name}" for name in ("connection", "registry", "session", "session_socket", "handshake")),
    ],
    "gateway.bus": ["gateway.hub", "gateway.ws", "gateway.console", "gateway.node"],
    "gateway.freshness": ["gateway.ws", "gateway.api", "gateway.console", "gateway.node"],
    "gateway.auth": ["gateway.hub", "gateway.ws", "gateway.api", "gateway.console", "gateway.node"],
    "gateway.ws": ["gateway.api", "gateway.console", "gateway.server", "gateway.node", "gateway.app"],
    "gateway.node": ["gateway.api", "gateway.console", "gateway.server", "gateway.app"],
    "gateway.api": ["gateway.console", "gateway.app", "gateway.cli", "gateway.dev"],
    "gateway.fleet": ["gateway.ws", "gateway.api", "gateway.console", "gateway.node", "gateway.app"],
    "gateway.console": ["gateway.app", "gateway.intake", "gateway.cli", "gateway.dev", "sync.billing"],
    "gateway.console.reports": ["gateway.console.routes", "gateway.console.observer", "gateway.api"],
    "gateway.intake": ["gateway.app", "gateway.console"],
    "gateway.dev": ["gateway.app", "gateway.cli", "gateway.node"],
}
"""Package -> packages that nothing in it imports. Everything else is allowed as long as there is no circle."""

PURE = [
    "gateway.auth.addresses",
    "gateway.auth.claims",
    "gateway.auth.origins",
    "gateway.auth.revocations",
    "gateway.auth.publish_keys",
    "gateway.auth.tokens",
    "gateway.auth.verify_keys",
    "gateway.console.reports.tab_status",
    "gateway.console.reports.topic_views",
    "gateway.fleet.control_channel",
    "gateway.console.scopes",
    "gateway.hub.ack_policy",
    "gateway.hub.subscription",
    "gateway.ws.deadlines",
    "gateway.ws.frames",
    "gateway.ws.protocol",
    "gateway.ws.session",
    "planwire_client.change",
    "planwire_client.commit_batch",
    "planwire_client.core.canonical_json",
    "planwire_client.core.commit",
    "planwire_client.core.document",
    "planwire_client.core.fields",
    "planwire_client.core.frames",
    "planwire_client.core.headers",
    "planwire_client.core.limits",
    "planwire_client.core.merge_patch",
    "planwire_client.core.reference",
    "planwire_client.core.topic",
    "planwire_client.delivery",
    "planwire_client.errors",
    "planwire_client.meter_usage",
    "planwire_client.replica.snapshot",
    "planwire_client.usage.answers",
    "planwire_client.usage.attempts",
    "planwire_client.usage.calls",
    "planwire_client.usage.denial",
    "sync.billing.catalog.applications",
    "sync.billing.catalog.catalog",
    "sync.billing.catalog.difference",
    "sync.billing.catalog.tables",
    "sync.billing.catalog.values",
    "sync.billing.catalog.versions",
    "sync.billing.catalog.meters",
    "sync.billing.catalog.positions",
    "sync.billing.domain.facts.codec",
    "sync.billing.domain.facts.customers",
    "sync.billing.domain.decision",
    "sync.billing.domain.facts.refunds",
    "sync.billing.domain.facts.payments",
    "sync.billing.domain.refund_decision",
    "sync.billing.domain.conclusion",
    "sync.billing.domain.facts.instructions",
    "sync.billing.domain.facts.drift",
    "sync.billing.domain.entitlements.applications",
    "sync.billing.domain.entitlements.awaited",
    "sync.billing.domain.entitlements.evaluation",
    "sync.billing.domain.entitlements.held_versions",
    "sync.billing.domain.entitlements.items",
    "sync.billing.domain.entitlements.versions",
    "sync.billing.domain.facts.model",
    "sync.billing.domain.facts.order",
    "sync.billing.domain.facts.prices",
    "sync.billing.domain.money.differences",
    "sync.billing.domain.money.model",
    "sync.billing.domain.money.quote",
    "sync.billing.domain.outcome",
    "sync.billing.domain.entitlements.overrides",
    "sync.billing.domain.entitlements.preview",
    "sync.billing.domain.entitlements.projection",
    "sync.billing.domain.entitlements.state",
    "sync.billing.domain.entitlements.unknown_items",
    "sync.billing.domain.facts.recent_events",
    "sync.billing.domain.facts.reducer",
    "sync.billing.domain.entitlements.scheduled_changes",
    "sync.billing.domain.facts.steps",
    "sync.billing.domain.tenant_naming",
    "sync.billing.domain.entitlements.takeover",
    "sync.billing.domain.shadow.comparison",
    "sync.billing.domain.shadow.values",
    "sync.billing.domain.entitlements.wakeups",
    "sync.billing.domain.tenant_resolution",
    "sync.billing.providers.base",
    "sync.billing.providers.hmac_signature",
    "sync.billing.providers.parsing",
    "sync.billing.providers.standard_webhooks",
    "sync.billing.providers.webhook_adapter",
    "sync.billing.providers.paddle.money",
    "sync.billing.providers.paddle.payment_list",
    "sync.billing.providers.paddle.payments",
    "sync.billing.providers.paddle.webhooks",
    "sync.billing.providers.polar.deliveries",
    "sync.billing.providers.polar.payments",
    "sync.billing.providers.polar.subscription",
    "sync.billing.providers.polar.webhooks",
    "sync.billing.providers.stripe.money",
    "sync.billing.providers.stripe.subscription",
    "sync.billing.providers.stripe.payments",
    "sync.billing.providers.stripe.webhooks",
    "sync.billing.providers.stripe.item_changes",
    "sync.core.announcement",
    "sync.core.errors",
    "sync.core.instants",
    "sync.core.plain_text",
    "sync.process.environment",
    "sync.store.checks.eviction",
    "sync.store.keys",
    "sync.store.redis.slots",
    "sync.usage.meters",
    "sync.usage.terms",
    "sync.usage.windows",
]
"""Modules that take values and return values. They import pure modules of ours only, and no I/O, clock or chance."""

IMPURE = set(
    ["asyncio", "redis", "starlette", "uvicorn", "httpx2", "socket", "threading", "random", "time", "secrets", "uuid"]
)

CATCHES_EVERYTHING = {
    "gateway.fleet.control_channel": "a handler that fails must not end the reader of the bus",
    "gateway.hub.observer": "an observer that fails must not stop the push",
    "gateway.console.observer": "a console task that fails must not stop the push",
    "sync.process.supervisor": "a loop that fails must not stop the worker",
    "sync.store.isolation": "an item that fails must not stop the others",
    "sync.billing.services.context": "an adapter that fails must not lose the body",
    "sync.store.embedded.data_dir": "any failure of the wheel's private module: a server on PATH will do",
}
"""Modules with an `except Exception`, each with the reason."""


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def imports(module: str) -> Iterator[str]:
    """Yield every module imported, also inside functions, but for type checking."""
    pending: list[ast.AST] = [TREES[module]]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in named)
        pending.extend(ast.iter_child_nodes(node))


GRAPH = {module: set(imports(module)) for module in MODULES}


@pytest.mark.parametrize("package", MAY_NOT_IMPORT)
def test_nothing_imports_upwards(package: str) -> None:
    found = {
        (module, name)
        for module, names in GRAPH.items()
        if within(module, package)
        for name in names
        if any(within(name, above) for above in MAY_NOT_IMPORT[package])
    }
    assert found == set()


def test_no_modules_import_one_another_in_a_circle() -> None:
    # `static_order` names the circle in its error.
    sorter = graphlib.TopologicalSorter({module: names & MODULES.keys() for module, names in GRAPH.items()})
    assert set(sorter.static_order()) == set(MODULES)


def test_pure_modules_know_no_io_no_clock_and_no_chance() -> None:
    found = {
        (module, name)
        for module in PURE
        for name in GRAPH[module]
        if name.partition(".")[0] in IMPURE
        or (name in MODULES and name not in PURE and MODULES[name].name != "__init__.py")
    }
    assert found == set()


def test_everything_is_caught_only_where_it_is_named() -> None:
    found = set()
    for module, tree in TREES.items():
        if within(module, "planwire_client"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{module}:{node.lineno} catches bare"
                kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
                if {"Exception", "BaseException"} & {ast.unparse(kind) for kind in kinds}:
                    found.add(module)
    assert found == set(CATCHES_EVERYTHING)


def test_every_module_says_what_it_is_for() -> None:
    assert [module for module, tree in TREES.items() if not ast.get_docstring(tree)] == []
