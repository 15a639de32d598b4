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
    "sida features": ".safetensors", "sida reference": ".safetensors",
    "sida table": ".tex", "sida figure": ".pdf", "sida claims": ".md", "sida compare": ".md",
    "sida page": ".html", "sida collect": ".csv",
}  # fmt: skip
#: Verbs that work at once, which a second interrupts in the middle of an import.
AT_WORK = {"sida presets"}
#: What each verb needs besides its options.
BASES = {
    command: [*words, f"out{ENDS.get(command, '')}"] for command, words in WRITING.items() if command not in AT_WORK
} | {
    "sida info": ["x.safetensors"], "sida check": ["x", "y"], "sida verify": ["."],
    "sida doctor": ["x.yaml"],
    "sida plan": ["x.yaml"], "sida run": ["x.yaml"],
    "sida assets": ["list"], "sida data check": ["x"], "sida show": ["."], "sida cite": ["table1"], "sida paper": ["."],
}  # fmt: skip


@functools.cache
def options(command: str) -> dict[str, bool]:
    """Options of a verb, and whether each takes a value."""
    _, verb, *below = command.split()
    parser = argparse.ArgumentParser()
    load_verb(cli.VERBS[verb]).arguments(parser)
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
    assert {command.split()[1] for command in BASES} | {verb.split()[1] for verb in AT_WORK} == set(cli.VERBS)
