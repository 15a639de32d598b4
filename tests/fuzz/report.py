"""Counts of fuzzed readers: a line each at the end of the tests, and stored for the documentation.

They travel as properties of reports, between processes too.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

from sida.files.atomic import write_json
from tests.fuzz.frame import Count

PROPERTY = "fuzz"
#: What ``python -m tests.fuzz count tests/fuzz/counted.json`` found, by reader; docs/reliability.md shows it.
COUNTED = Path(__file__).with_name("counted.json")


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


def store(file: Path, reader: str, count: Count) -> None:
    """Puts a reader's counts, rounded, into a file such as :data:`COUNTED`."""
    known = json.loads(file.read_text()) if file.exists() else {}
    found = {name: round(value, 2) for name, value in dataclasses.asdict(count).items()}
    write_json(file, {**known, reader: {**found, "date": datetime.date.today().isoformat()}})


def stored(file: Path, reader: str) -> Count:
    """A reader's counts in such a file; none where it is not in there."""
    known = json.loads(file.read_text()).get(reader, {}) if file.exists() else {}
    return Count(**{name: value for name, value in known.items() if name != "date"})
