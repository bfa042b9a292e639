from __future__ import annotations

import pytest

from sync.simulator.scenarios import torture
from sync.simulator.scenarios.script import Expected, Script
from sync.simulator.scenarios.torture import Report
from sync.simulator.world.model import Json


def test_a_report_says_what_was_found() -> None:
    report = Report(
        "T", 7, 2, 10, 12, 1, {"200 applied": 10, "503": 1}, ["t-1 ends at free none, not at pro active"], False, 1.5
    )

    assert not report.is_ok
    assert report.lines() == [
        "T (seed 7): 1 violations",
        "  10 events of 2 tenants in 12 deliveries, 1 retries, 1.5 s",
        "  answers: 10 x 200 applied, 1 x 503",
        "  checked: answers and the state of 2 tenants",
        "  violation: t-1 ends at free none, not at pro active",
    ]


async def test_every_application_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torture, "CONVERGE_S", 0)
    mail: dict[str, Json] = {"plan": {"key": "mail"}, "status": "active"}

    async def read(topic: str) -> Json:
        assert topic == "tenant:t"
        return {"plan": {"key": "pro"}, "status": "active", "apps": {"mail": mail}}

    async def found(**others: Expected) -> list[str]:
        ends = {("t", app): end for app, end in others.items()}
        return await torture._unconverged("live", Script((), {"t": Expected("pro", "active")}, 0, ends), read)

    assert await found() == await found(mail=Expected("mail", "active")) == []
    assert await found(mail=Expected("", "none")) == ["t in mail ends at mail active, not at no plan none"]
    assert await found(shop=Expected("", "none")) == ["t in shop ends at nothing, not at no plan none"]
