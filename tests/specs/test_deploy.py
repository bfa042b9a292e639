"""What docs/deploy ships and docs/operations.md says: only metrics, settings, routes and commands that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.cli import cli
from gateway.metrics import Metrics
from gateway.settings import GatewaySettings
from planwire_client.core.frames import CloseCode
from sync.process.environment import NAMES
from sync.worker import ALIVE_S
from tests.support.servers import missing

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
ALERTS = (DEPLOY / "prometheus" / "alerts.yaml").read_text()
RUNBOOK = (ROOT / "docs" / "operations.md").read_text()
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = [DEPLOY / "kubernetes" / "planwire.yaml", DEPLOY / "compose.yaml", DEPLOY / "planwire.env.example"]

NOT_SETTINGS = {"PLANWIRE_DEV", "PLANWIRE_DEV_INSECURE_HOST"}
"""What no deployment may set."""


def exported() -> set[str]:
    """Return every name that a scrape holds."""
    names = set[str]()
    for family in text_string_to_metric_families(Metrics().exposition().decode()):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names.update(family.name + suffix for suffix in suffixes)
    return names


def expressions(value: Any) -> Iterator[str]:
    """Yield every query of a dashboard."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("expr", "query") and isinstance(item, str):
                yield item
            else:
                yield from expressions(item)
    elif isinstance(value, list):
        for item in value:
            yield from expressions(item)


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:planwire|process)_[a-z_]+", text))


def test_the_alerts_ask_for_metrics_that_exist() -> None:
    asked = metrics_in(re.sub(r"(?m)^\s*(#.*|- name:.*)$", "", ALERTS))
    assert len(asked) > 10
    assert asked <= exported()


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "planwire.json").read_text())
    asked = set().union(*(metrics_in(text) for text in expressions(dashboard)))
    assert len(asked) > 20
    assert asked <= exported()
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({(place["x"], place["y"]) for place in places}) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def test_alerts_and_dashboard_select_by_labels_that_are_given() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "planwire.json").read_text())
    asked = "\n".join([ALERTS, *expressions(dashboard)])
    code = "\n".join(path.read_text() for path in (ROOT / "gateway").rglob("*.py"))
    counted = re.findall(r"refused\[(.+)\] \+= 1", code)
    reasons = {name for line in counted for name in re.findall(r'"([a-z_]+)"', line)}
    used = set(re.findall(r'reason="([a-z_]+)"', asked))
    assert used
    assert used <= reasons
    codes = set(re.findall(r'code="(\d+)"', asked))
    assert codes
    assert codes <= {str(int(code)) for code in CloseCode}


def test_the_runbook_names_what_exists() -> None:
    assert {name for name in re.findall(r"`(planwire_[a-z_]+)", RUNBOOK)} <= exported() | {
        "planwire_restored_total",
        "planwire_resets_total",
    }
    assert set(re.findall(r"\bPLANWIRE_[A-Z_]+", RUNBOOK)) <= NAMES
    commands = set(re.findall(r"`planwire ([a-z]+)", RUNBOOK))
    assert commands <= set(cli.commands)
    for target in re.findall(r"\]\(([^)#]+)\)", RUNBOOK):
        assert (ROOT / "docs" / target).exists(), target


def test_each_alert_has_its_section_in_the_runbook_and_no_other() -> None:
    alerts = re.findall(r"alert: (\w+)", ALERTS)
    assert re.findall(r"runbook: docs/operations\.md#(\w+)", ALERTS) == [alert.lower() for alert in alerts]
    assert re.findall(r"(?m)^### (\w+)$", RUNBOOK) == alerts


@pytest.mark.parametrize("path", [*MANIFESTS, *UNITS, ROOT / "Dockerfile"], ids=lambda path: path.name)
def test_manifests_set_what_exists_and_name_no_secret(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"\bPLANWIRE_[A-Z_]+", text)) <= NAMES - NOT_SETTINGS
    for name in ("JWT_SECRET", "PUBLISH_KEYS", "PADDLE_SECRETS", "PADDLE_API_KEYS", "CONSOLE_TOKEN", "METRICS_TOKEN"):
        for value in re.findall(rf"(?m)PLANWIRE_{name}[ \t]*[=:][ \t]*(.*)$", text):
            assert value == "", f"{name} has a value"
    for module in re.findall(r"-m[\", ]+((?:gateway|sync)[a-z_.]*)", text):
        path = ROOT / Path(*module.split("."))
        assert (path / "__main__.py").exists() or path.with_suffix(".py").exists(), module


def test_the_manifest_leaves_the_drain_its_time() -> None:
    manifest = (DEPLOY / "kubernetes" / "planwire.yaml").read_text()
    drain = int(re.search(r'PLANWIRE_DRAIN_S, value: "(\d+)"', manifest)[1])  # type: ignore[index]
    wait = int(re.search(r"command: \[sleep, \"(\d+)\"\]", manifest)[1])  # type: ignore[index]
    grace = int(re.search(r"terminationGracePeriodSeconds: (\d+)", manifest)[1])  # type: ignore[index]
    assert grace >= wait + drain + 10
    default = GatewaySettings.model_fields["drain_s"].default
    for unit in UNITS:
        stop = re.search(r"TimeoutStopSec=(\d+)", unit.read_text())
        assert stop is not None
        assert int(stop[1]) >= default + 10
    assert "path: /readyz" in manifest.split("readinessProbe:")[1].split("lifecycle")[0]
    assert "/readyz" not in manifest.split("livenessProbe:")[1].split("readinessProbe")[0]


def test_every_pod_is_spared_service_links_and_has_its_probes() -> None:
    manifest = (DEPLOY / "kubernetes" / "planwire.yaml").read_text()
    pods = {
        name: part for part in manifest.split("\n---\n") for name in re.findall(r"(?m)^        - name: (\w+)$", part)
    }
    assert set(pods) == {"web", "worker"}
    probes = {}
    for name, pod in pods.items():
        assert re.findall(r"(?m)^      enableServiceLinks: (.*)$", pod) == ["false"]
        found = re.findall(r"(?m)^          (\w+)Probe:\n            (.*)$", pod)
        probes[name] = dict(found)
        assert len(found) == len(probes[name])
    assert probes["web"] == {
        "startup": "httpGet: {path: /healthz, port: http}",
        "liveness": "httpGet: {path: /healthz, port: http}",
        "readiness": "httpGet: {path: /readyz, port: http}",
    }
    # No Service leads to the worker, so it needs no readiness.
    assert set(probes["worker"]) == {"startup", "liveness"}
    (alive,) = re.findall(r"PLANWIRE_ALIVE_FILE, value: (\S+)\}", pods["worker"])
    assert all(f"find {alive} -mmin -1" in command for command in probes["worker"].values())
    assert ALIVE_S * 6 <= 60, "one touch that comes late must not fail the probe"


def test_the_alerts_fire_where_they_should() -> None:
    promtool = shutil.which("promtool") or missing("promtool is missing (Debian: apt-get install prometheus)")
    for arguments in (("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")):
        done = subprocess.run(
            [promtool, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_units_are_understood(unit: Path, tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze") or missing("systemd-analyze is missing (Debian: apt-get install systemd)")
    here = tmp_path / unit.name
    # It looks whether the program is there.
    here.write_text(unit.read_text().replace("/opt/planwire/bin/python", "/bin/sh"))
    done = subprocess.run([tool, "verify", "--man=no", str(here)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
