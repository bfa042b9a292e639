from __future__ import annotations

from sync.simulator.scenarios.torture import Report


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
