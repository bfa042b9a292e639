"""What `planwire top` shows follows from two answers of the console."""

from __future__ import annotations

from typing import Any

from gateway.cli.top import STATUSES, _lines


def report(name: str, **members: Any) -> dict[str, Any]:
    tabs = dict.fromkeys(STATUSES, 0) | members.pop("tabs", {})
    return {
        "gateway": name,
        "draining": False,
        "fresh": True,
        "sockets": 3,
        "topics": 2,
        "tabs": tabs,
        "counters": {"deliveries": 100, "acks": 40},
        "latency": {"committed_to_acked": {"count": 2, "p50_s": 0.1, "p99_beyond_s": 30.0}},
        "trouble": {},
        "trouble_total": 0,
        **members,
    }


def answer(*reports: dict[str, Any], at: float = 10.0, **members: Any) -> dict[str, Any]:
    return {"gateways": {one["gateway"]: one for one in reports}, "silent": [], "at": at, **members}


def test_rates_need_two_answers() -> None:
    before = answer(report("a"))
    now = answer(report("a", counters={"deliveries": 150, "acks": 41}), at=12.0)
    head, row = (line.split() for line in _lines(now, None, 99)[2:4])
    rates = head.index("deliveries/s"), head.index("acks/s")
    assert [row[place] for place in rates] == ["-", "-"]
    row = _lines(now, before, 99)[3].split()
    assert [row[place] for place in rates] == ["25", "0"]


def test_a_latency_beyond_the_last_bound_is_not_shown_as_one() -> None:
    line = _lines(answer(report("a")), None, 99)[3]
    assert line.endswith("100 ms  -")


def test_silent_and_stopping_gateways_and_old_figures_are_named() -> None:
    lines = _lines(answer(report("a", draining=True), report("b", fresh=False), silent=["c"]), None, 99)
    assert "gateway c does not answer" in lines[1]
    assert [line.split()[:2] for line in lines[4:6]] == [["a", "stopping"], ["b", "STALE"]]
    assert "not up to date: gone" in _lines(answer(report("a"), failed="gone"), None, 99)


def test_the_worst_topics_come_first_and_the_rest_is_counted() -> None:
    def row(status: str, count: int) -> dict[str, Any]:
        return {"status": status, "sockets": 9, "tabs": {status: count}}

    one = report("a", trouble={"t:1": row("BEHIND", 2), "t:2": row("NACKED", 1)}, trouble_total=2)
    other = report("b", trouble={"t:\x1b3": row("BEHIND", 5)}, trouble_total=4)
    lines = _lines(answer(one, other), None, 99)
    at = lines.index("topics in trouble: 6")
    assert [line.split()[1:] for line in lines[at + 2 : at + 5]] == [
        ["NACKED", "1", "9", "a"],
        ["BEHIND", "5", "9", "b"],
        ["BEHIND", "2", "9", "a"],
    ]
    assert lines[at + 5] == "and 3 more"
    assert all(line.isprintable() for line in lines)
    assert len(_lines(answer(one, other), None, 4)) == 4
