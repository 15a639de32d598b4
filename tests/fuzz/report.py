"""One line per fuzzed reader at the end of the tests; counts travel as properties of reports, between processes too."""

from __future__ import annotations

import dataclasses
from typing import Any

from tests.fuzz.frame import Count

PROPERTY = "fuzz"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Sums the counts of all tests by reader and prints them."""
    counts: dict[str, Count] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == PROPERTY and report.when == "call":
                    counts.setdefault(value["reader"], Count()).add(Count(**value["count"]))
    if not counts:
        return
    terminalreporter.section("fuzzed readers")
    for reader, count in sorted(counts.items()):
        terminalreporter.write_line(line(reader, count))


def line(reader: str, count: Count) -> str:
    """A reader's line."""
    return (
        f"{reader:<28} {count.cases:>7} cases  {count.accepted:>6} accepted  {count.refused:>6} refused"
        f"  {count.seconds:6.1f} s  longest {count.longest:5.2f} s  peak {count.peak_mb:4.0f} MB"
    )


def as_property(reader: str, count: Count) -> tuple[str, dict[str, Any]]:
    """Name and value for pytest's ``record_property``."""
    return PROPERTY, {"reader": reader, "count": dataclasses.asdict(count)}
