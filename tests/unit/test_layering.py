"""Who may import whom, and what may be caught: read off the syntax trees, so that it holds for code no test runs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("gateway", "sync")
    for path in sorted((ROOT / package).rglob("*.py"))
}

PURE = [
    "gateway.addresses",
    "gateway.auth",
    "gateway.claims",
    "gateway.console.data",
    "gateway.console.scopes",
    "gateway.deadlines",
    "gateway.errors",
    "gateway.frame",
    "gateway.origins",
    "gateway.outbox",
    "gateway.protocol",
    "gateway.revocations",
    "gateway.rights",
    "gateway.session",
    "sync.billing.alarm",
    "sync.billing.catalog",
    "sync.billing.held",
    "sync.billing.instants",
    "sync.billing.model",
    "sync.billing.override",
    "sync.billing.preview",
    "sync.billing.projection",
    "sync.billing.providers",
    "sync.billing.providers.paddle",
    "sync.billing.providers.signature",
    "sync.billing.providers.stripe",
    "sync.billing.reducer",
    "sync.billing.toml_lines",
    "sync.errors",
    "sync.state.announcement",
    "sync.state.canonical",
    "sync.state.document",
    "sync.state.env",
    "sync.state.eviction",
    "sync.state.keys",
    "sync.state.merge_patch",
    "sync.state.plain_text",
    "sync.state.slots",
    "sync.state.topic",
]
"""Modules that take values and return values: no I/O, no clock, no chance."""

IMPURE = {
    "asyncio",
    "redis",
    "starlette",
    "uvicorn",
    "httpx2",
    "socket",
    "threading",
    "random",
    "time",
    "secrets",
    "uuid",
}

MAY_SEE_ALL_OF_SYNC = {"gateway.app", "gateway.cli", "gateway.dev"}
"""The one that mounts the intake, and the two that run all processes of a development machine."""

MAY_CATCH_EVERYTHING = {
    "gateway.console.supervisor": "a console that fails in an unforeseen way must not take the tabs along",
    "sync.worker": "one event that fails in an unforeseen way must not stop the others",
    "sync.state.embedded": "whatever fails inside the wheel's private module, a server on PATH will do",
}
"""Modules with an `except Exception`, each with the reason."""


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def imports(module: str) -> Iterator[str]:
    """Yield every module imported, also inside functions; under TYPE_CHECKING nothing is imported."""
    pending: list[ast.AST] = [tree(module)]
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
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def handlers(module: str) -> Iterator[tuple[ast.ExceptHandler, list[str]]]:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            yield node, [ast.unparse(kind) for kind in kinds]
        elif isinstance(node, ast.ExceptHandler):
            yield node, []


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_do_no_io_and_know_no_clock(module: str) -> None:
    roots = {name.partition(".")[0] for name in imports(module)}
    assert roots & IMPURE == set()


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_stand_on_pure_modules_only(module: str) -> None:
    ours = {name for name in imports(module) if name in MODULES}
    assert {name for name in ours if name not in PURE and MODULES[name].name != "__init__.py"} == set()


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, "sync")])
def test_sync_never_imports_the_gateway(module: str) -> None:
    assert [name for name in imports(module) if within(name, "gateway")] == []


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, "sync.state")])
def test_state_imports_nothing_of_ours_but_itself(module: str) -> None:
    names = [name for name in imports(module) if within(name, "sync") or within(name, "gateway")]
    assert [
        name for name in names if not within(name, "sync.state") and not within(name, "sync.errors") and name != "sync"
    ] == []


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, "sync.billing")])
def test_billing_imports_only_itself_and_state(module: str) -> None:
    names = [name for name in imports(module) if within(name, "sync") and name != "sync"]
    allowed = ("sync.billing", "sync.state", "sync.errors")
    assert [name for name in names if not any(within(name, package) for package in allowed)] == []


@pytest.mark.parametrize(
    "module",
    [
        module
        for module in MODULES
        if within(module, "gateway") and not any(within(module, one) for one in MAY_SEE_ALL_OF_SYNC)
    ],
)
def test_the_gateway_imports_only_state_of_sync(module: str) -> None:
    names = [name for name in imports(module) if within(name, "sync")]
    assert [name for name in names if not within(name, "sync.state") and name != "sync"] == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_is_caught_bare_and_everything_only_where_it_is_named(module: str) -> None:
    for handler, kinds in handlers(module):
        assert kinds, f"{module}:{handler.lineno} catches bare"
        if {"Exception", "BaseException"} & set(kinds):
            assert module in MAY_CATCH_EVERYTHING, f"{module}:{handler.lineno} catches everything"


def test_the_lists_name_what_exists() -> None:
    assert set(PURE) <= set(MODULES)
    assert set(MAY_CATCH_EVERYTHING) <= set(MODULES)
    for module in MAY_CATCH_EVERYTHING:
        assert any({"Exception", "BaseException"} & set(kinds) for _, kinds in handlers(module)), module


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(tree(module))
