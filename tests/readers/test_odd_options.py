"""Options of every verb with odd values, alone and in pairs, in one process: one line and status 1 or 2, or the work.

About 18,000 calls, of which the slow set makes all and the quick one a few of each verb.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import itertools
import random
import socket
from unittest import mock

import pytest

from tests.fuzz.guards import TooLongError, time_limit
from tests.readers.test_arguments import SPEC, WRITING
from workflow import cli

ODD = (
    "", " ", "-1", "0", "1", "1e999", "nan", "9" * 400, "²", "\x1b[2J", "../x", "a\0b", "é" * 300, "\udcff", "{}",
    "[1]", "null", "=1+1", "x=y", "--", "-", ",", "0-", "digits", "/dev/null", "/proc/self/mem", SPEC, '{"a": ' * 200,
)  # fmt: skip
#: Odd values of each pair of options.
IN_PAIRS = 14
#: What a verb needs besides its options, where that is not in `WRITING`.
OTHERS = {
    "sida info": ["x.safetensors"], "sida check": ["x", "y"], "sida verify": ["."],
    "sida doctor": ["--preset", "x.yaml"],
    "sida plan": ["x.yaml"], "sida rates": [], "sida run": ["x.yaml"], "sida tune": ["x.yaml"],
    "sida assets": ["list"], "sida data check": ["x"], "sida-eval show": ["."], "sida-eval power": [".", "M-01"],
    "sida-eval docs": ["--check", "x.md"], "sida-eval cite": ["table1"], "sida-eval paper": ["."], "sida presets": [],
    "sida-eval completion": ["bash"],
}  # fmt: skip
#: How the name ends of what a verb writes.
ENDS = {
    "sida sample": ".npz", "sida data prepare": ".zip", "sida data encode": ".zip", "sida average": ".safetensors",
    "sida crate": ".zip", "sida-eval features": ".safetensors", "sida-eval reference": ".safetensors",
    "sida-eval table": ".tex", "sida-eval figure": ".pdf", "sida-eval claims": ".md", "sida-eval compare": ".md",
    "sida-eval board": ".md",
    "sida-eval page": ".html", "sida-eval experiment": ".json", "sida-eval collect": ".csv",
}  # fmt: skip
#: Verbs that train at once, which a second interrupts in the middle of an import.
AT_WORK = {"sida train-backbone", "sida-eval train-digits"}
BASES = {
    command: [*words, f"out{ENDS.get(command, '')}"] for command, words in WRITING.items() if command not in AT_WORK
}
BASES |= OTHERS


@functools.cache
def options(command):
    """Options of a verb, and whether each takes a value."""
    program, verb, *below = command.split()
    parser = argparse.ArgumentParser()
    importlib.import_module(cli.VERBS[program][verb]).arguments(parser)
    for name in below:
        (found,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parser = found.choices[name]
    given = [action for action in parser._actions if action.option_strings and action.dest != "help"]
    return {action.option_strings[-1]: action.nargs != 0 for action in given}


def calls(command):
    """All calls of a verb."""
    known, source = options(command), random.Random(command)

    def word(option, value):
        return f"{option}={value}" if known[option] else option

    yield BASES[command]
    for option in known:
        for value in ODD if known[option] else ODD[:1]:
            yield [*BASES[command], word(option, value)]
    for pair in itertools.combinations(known, 2):
        for _ in range(IN_PAIRS):
            yield [*BASES[command], *(word(option, source.choice(ODD)) for option in pair)]


def check(command, arguments):
    """One call: it may work for a second, else it ends with a status and, if that is an error, with one line."""
    program, *verb = command.split()
    main = {"sida": cli.sida_main, "sida-eval": cli.eval_main}[program]
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), time_limit(1):
            status = main([*verb, *arguments])
    except TooLongError:
        return
    except SystemExit as end:
        status = end.code
    told = [line for line in err.getvalue().splitlines() if "error: " in line]
    assert status in (0, 1, 2), (status, arguments)
    assert len(told) == (status != 0), (status, arguments, err.getvalue())
    assert all(line.isprintable() for line in told), (arguments, told)


def refuse(*_, **__):
    raise ConnectionRefusedError(111, "Connection refused")


class NoProcess:
    """In the place of a new process: a call that begins to work."""

    def __init__(self, *_, **__):
        raise TooLongError


@pytest.mark.parametrize("part", [pytest.param(1, marks=pytest.mark.slow, id="all"), pytest.param(200, id="few")])
@pytest.mark.parametrize("command", sorted(BASES))
def test_odd_options_are_one_line_or_work(command, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    faults = []
    with mock.patch.object(socket.socket, "connect", refuse), mock.patch("subprocess.Popen", NoProcess):
        for arguments in [*calls(command)][::part]:
            try:
                check(command, arguments)
            except Exception as error:
                faults.append(f"{arguments}: {type(error).__name__}: {str(error)[:300]}")
    assert not faults, f"{len(faults)} faults: " + "\n".join(faults[:10])


def test_the_calls_are_many_and_of_every_verb():
    # The verbs of sida-eval are verbs of sida, too: each is called once.
    verbs = {f"sida-eval {verb}" for verb in cli.VERBS["sida-eval"]}
    verbs |= {
        f"sida {verb}" for verb, module in cli.VERBS["sida"].items() if cli.VERBS["sida-eval"].get(verb) != module
    }
    assert {" ".join(command.split()[:2]) for command in BASES} == verbs - AT_WORK
    assert sum(len([*calls(command)]) for command in BASES) > 16_000
