"""Arguments of the verbs: what cannot be is one line before anything is computed, and nothing is left behind."""

import io
import os
import subprocess
import sys

import pytest

from sida.cli import networks
from sida.cli.main import Verb, run_command_line
from sida.config.resources import ROOT
from sida.errors import EXIT_RETRY, Preempted, UserError
from tests.refused import command, refusal
from workflow import cli

DIGITS = '{"name": "digits", "kind": "digits"}'
#: Calls of verbs that write, up to the place where they do.
WRITING = {
    "sample": ["--sampler", "data", "--dataset", "digits", "--out"],
    "score": [".", "--protocol", "digits", "--out"],
    "table": ["main", "--out"],
}


@pytest.mark.parametrize("verb", WRITING)
def test_a_place_where_nothing_can_be_written_is_told_first(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    os.symlink("circle", "circle")
    for place in ("", " ", "/proc/x/y.json", "file/y", "a\0b", "x" * 300, "circle/y", "~nosuchuser/y", "~/y"):
        error = refusal(command, verb, *WRITING[verb], place)
        assert "writ" in error or "is a file" in error, error
    assert sorted(os.listdir(tmp_path)) == ["circle", "file"]


@pytest.mark.parametrize(
    ("verb", "arguments", "told"),
    [
        ("sample", ["--threads", "-1"], "--threads: must be at least 1"),
        ("sample", ["--out", "o", "--seeds", str(2**64)], "seeds"),
        ("sample", ["--out", "o", "--seeds", "0-99999999999999"], "seeds"),
        ("sample", ["--out", "o", "--sampler", "heun:18,num_steps=20"], "num_steps: is given twice"),
        ("train-teacher", ["--spec", "name: x\n" * 99, "--out", "o"], "no such file"),
        ("train-teacher", ["--spec", "{}", "--out", "o", "--processes", "65"], "--processes: must be at most 64"),
        ("average", ["x", "--std", "0.1", "--out=--"], "--out=--: '--'"),
    ],
)
def test_values_that_cannot_be(verb, arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").touch()
    assert told in refusal(command, verb, *arguments)
    assert os.listdir(tmp_path) == ["x"]


def test_options_of_a_feature_network_that_is_not_used(tmp_path):
    out = ["--out", str(tmp_path / "x.safetensors")]
    given = ["--dataset", DIGITS, "--extractor", "pixels", *out, "--extractor-option"]
    assert "did you mean 'pixels'?" in refusal(command, "reference", *given, "pixls.path=x")
    assert "no option 'pth'" in refusal(command, "reference", *given, "pixels.pth=x")
    assert not list(tmp_path.iterdir())


class Terminal(io.TextIOWrapper):
    """A terminal of some encoding."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def isatty(self):
        return True

    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize(("encoding", "no_colour"), [("ascii", ""), ("utf-8", ""), ("utf-8", "1")])
def test_tables_in_every_terminal(encoding, no_colour, monkeypatch):
    for name in ("TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", no_colour)
    screen = Terminal(encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    assert cli.main(["show", "demo"]) == 0
    shown = screen.text()
    assert ("\033" in shown) == ("* best one-step value" not in shown) == (not no_colour)
    assert ("±" in shown) == (encoding == "utf-8")


def test_a_closed_standard_output_is_no_fault(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["show", "demo"]) == 0


def test_a_reader_that_leaves_is_no_fault():
    listing = [sys.executable, "-m", "workflow", "assets", "list"]
    # The pipe's other end is closed before anything is written.
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(listing, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("end", "status", "told"),
    [
        (0, 0, ""),
        (3, 3, ""),
        (UserError("x", "no such file"), 1, "error: x: no such file"),
        (Preempted(), EXIT_RETRY, "preempted"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_reader_that_leaves_at_the_last_line_changes_no_status(monkeypatch, capsys, end, status, told):
    class Gone(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    def run(arguments):
        if isinstance(end, int):
            return end
        raise end

    monkeypatch.setattr(networks, "INFO", Verb("", "", lambda parser: None, run))
    monkeypatch.setattr(sys, "stdout", Gone())
    assert run_command_line("", {"info": "sida.cli.networks:INFO"}, ["info"]) == status
    assert capsys.readouterr().err.startswith(told)
