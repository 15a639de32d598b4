"""Plugin of pytest for :mod:`tools.mutants`: the lines of some folders that each test reaches, and its time.

    REACHED=lines.json REACHED_IN=/copy/sida/methods python -m pytest -p tools.reached tests/methods

Lines that the set-up of a shared fixture reaches count for each test with the fixture. Lines of other processes, and
of the bodies of modules and classes, are not seen.
"""

import inspect
import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

#: ``path:line`` by test, and by shared fixture.
_lines: defaultdict[str, set[str]] = defaultdict(set)
_fixtures: dict[str, list[str]] = {}
_seconds: dict[str, float] = {}
_folders = tuple(os.environ["REACHED_IN"].split(os.pathsep))
_now = [""]


def _trace(frame: FrameType, event: str, argument: Any) -> Any:
    # Bodies of modules and classes run once, in whichever test imports them first.
    of_function = frame.f_code.co_flags & inspect.CO_OPTIMIZED
    return _record if of_function and frame.f_code.co_filename.startswith(_folders) else None


def _record(frame: FrameType, event: str, argument: Any) -> Any:
    _lines[_now[0]].add(f"{frame.f_code.co_filename}:{frame.f_lineno}")
    return _record


def _by_name(fixture: Any) -> str:
    return f"{fixture.baseid}::{fixture.argname}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: Any) -> Iterator[None]:
    """Traces a test."""
    shared = (item._fixtureinfo.name2fixturedefs.get(name, ()) for name in item.fixturenames)
    _fixtures[item.nodeid] = [_by_name(one) for definitions in shared for one in definitions if one.scope != "function"]
    _now[0], start = item.nodeid, time.monotonic()
    threading.settrace(_trace)
    sys.settrace(_trace)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        _seconds[item.nodeid] = time.monotonic() - start


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Iterator[None]:
    """Traces the set-up of a shared fixture for itself."""
    before = _now[0]
    if fixturedef.scope != "function":
        _now[0] = _by_name(fixturedef)
    try:
        return (yield)
    finally:
        _now[0] = before


def pytest_sessionfinish() -> None:
    """Writes ``{test: [seconds, [path:line, ...]]}``."""
    reached = {
        test: [seconds, sorted(_lines[test].union(*(_lines[name] for name in _fixtures[test])))]
        for test, seconds in _seconds.items()
    }
    with open(os.environ["REACHED"], "w", encoding="utf-8") as file:
        json.dump(reached, file)
