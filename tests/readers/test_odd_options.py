"""Options of every verb with odd values, alone and together: one line and status 1 or 2, or the work."""

from __future__ import annotations

import argparse
import contextlib
import functools
import socket
from unittest import mock

import hypothesis
import pytest
from hypothesis import strategies

from sida.cli.main import load_verb
from sida.errors import UserError
from tests.readers.frame import SLOW, command
from tests.readers.guards import TooLongError, time_limit
from tests.readers.test_arguments import SPEC, WRITING
from workflow import cli

CASES = 4
ODD = (
    "", " ", "-1", "0", "1", "1e999", "nan", "9" * 400, "²", "\x1b[2J", "../x", "a\0b", "é" * 300, "\udcff", "{}",
    "[1]", "null", "=1+1", "x=y", "--", "-", ",", "0-", "digits", "/dev/null", "/proc/self/mem", SPEC, '{"a": ' * 200,
)  # fmt: skip
#: How the name ends of what a verb writes.
ENDS = {
    "sida sample": ".npz", "sida data prepare": ".zip", "sida data encode": ".zip", "sida average": ".safetensors",
    "sida crate": ".zip", "sida-eval features": ".safetensors", "sida-eval reference": ".safetensors",
    "sida-eval table": ".tex", "sida-eval figure": ".pdf", "sida-eval claims": ".md", "sida-eval compare": ".md",
    "sida-eval board": ".md",
    "sida-eval page": ".html", "sida-eval experiment": ".json", "sida-eval collect": ".csv",
}  # fmt: skip
#: Verbs that work at once, which a second interrupts in the middle of an import.
AT_WORK = {"sida train-backbone", "sida-eval train-digits", "sida presets"}
#: What each verb needs besides its options.
BASES = {
    command: [*words, f"out{ENDS.get(command, '')}"] for command, words in WRITING.items() if command not in AT_WORK
} | {
    "sida info": ["x.safetensors"], "sida check": ["x", "y"], "sida verify": ["."],
    "sida doctor": ["--preset", "x.yaml"],
    "sida plan": ["x.yaml"], "sida rates": [], "sida run": ["x.yaml"],
    "sida assets": ["list"], "sida data check": ["x"], "sida-eval show": ["."], "sida-eval power": [".", "M-01"],
    "sida-eval cite": ["table1"], "sida-eval paper": ["."],
    "sida-eval completion": ["bash"],
}  # fmt: skip


@functools.cache
def options(command: str) -> dict[str, bool]:
    """Options of a verb, and whether each takes a value."""
    program, verb, *below = command.split()
    parser = argparse.ArgumentParser()
    load_verb(cli.VERBS[program][verb]).arguments(parser)
    for name in below:
        (found,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parser = found.choices[name]
    given = [action for action in parser._actions if action.option_strings and action.dest != "help"]
    return {action.option_strings[-1]: action.nargs != 0 for action in given}


def called(verb, given):
    """One call: it may work for a second, else it succeeds or ends with one line."""
    program, *words = verb.split()
    words += BASES[verb] + [f"{name}={value}" if options(verb)[name] else name for name, value in given.items()]
    with contextlib.suppress(TooLongError, UserError), time_limit(1):
        command(program, *words)


class NoProcess:
    """In the place of a new process: a call that begins to work."""

    def __init__(self, *_, **__):
        raise TooLongError


@pytest.mark.parametrize("times", [1, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("verb", sorted(BASES))
def test_odd_options_are_one_line_or_work(verb, times, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    values = strategies.fixed_dictionaries({}, optional=dict.fromkeys(options(verb), strategies.sampled_from(ODD)))

    @hypothesis.settings(max_examples=CASES * times, derandomize=True)
    @hypothesis.given(values)
    def call(given):
        called(verb, given)

    refuse = mock.Mock(side_effect=ConnectionRefusedError(111, "Connection refused"))
    with mock.patch.object(socket.socket, "connect", refuse), mock.patch("subprocess.Popen", NoProcess):
        call()


def test_every_verb_is_called():
    # The verbs of sida-eval are verbs of sida, too: each is called once.
    twice = {f"sida {verb}" for verb, module in cli.VERBS["sida"].items() if cli.VERBS["sida-eval"].get(verb) == module}
    verbs = {f"{program} {verb}" for program, found in cli.VERBS.items() for verb in found}
    assert {" ".join(command.split()[:2]) for command in BASES} | AT_WORK == verbs - twice
