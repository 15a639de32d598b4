"""Lines for people: an error in one that no terminal obeys; of long work now and then, with a rate of its own."""

import itertools
import os
import subprocess
import sys

import pytest

from sida import errors
from sida.cli.main import let_go
from sida.config import resources
from sida.errors import Progress, UserError, duration, one_line
from tests.training.toy import TEACHER, as_json
from workflow.cli import main


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("config/müll.yaml: α must be 1, got “2”", "config/müll.yaml: α must be 1, got “2”"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[2J\x9b31m\x7f", r"\x1b[2J\x9b31m\x7f"),
        ("\u202egnp.exe\u2028", r"\u202egnp.exe\u2028"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_written_as_an_escape(text, shown):
    assert str(UserError("", text)) == shown
    assert shown.isprintable()


def test_an_endless_line_keeps_its_ends():
    shown = one_line("the file: " + "x" * 10**7 + "; make it again")
    assert shown.startswith("the file: xx")
    assert shown.endswith("xx; make it again")
    assert len(shown) <= 2000
    assert len(one_line("\x1b" * 10**7)) < 8000


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["score", "mine.sample"], "mine:sample"),
        (["score", "image.npz"], "no registered network has this id"),
        (["new", "study", "--data", "picture.png"], "give its pictures in a folder"),
        (["info", "pictures.png"], "did you mean 'picture.png'?"),
        (["verify", "results"], "check the path"),
    ],
)
def test_a_wrong_name_ends_before_heavy_imports(tmp_path, monkeypatch, capsys, words, remedy):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picture.png").touch()
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of torch fails
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert next(word for word in reversed(words) if "." in word or word == "results") in line
    assert remedy in line


def test_a_missing_package_has_a_remedy_that_works_where_it_is_read(monkeypatch):
    assert resources.how_to_install("diffusers>=0.27") == "make setup"
    monkeypatch.setattr(resources, "CHECKOUT", False)
    assert resources.how_to_install("diffusers>=0.27") == "pip install 'diffusers>=0.27'"


#: Several of these share a pipe; Python does not buffer in them, as under the Makefile.
SPEAKER = "import sys; from sida.errors import say\nfor k in range(200): say(sys.argv[1] * 60)"


class Stream:
    """Keeps each write for itself."""

    def __init__(self):
        self.writes = []

    def write(self, text):
        self.writes.append(text)

    def flush(self):
        pass


def test_lines_of_processes_that_share_a_pipe_stay_whole():
    end, start = os.pipe()
    speakers = [subprocess.Popen([sys.executable, "-u", "-c", SPEAKER, name], stderr=start) for name in "ab"]
    os.close(start)
    with open(end) as pipe:
        lines = pipe.read().splitlines()
    assert [speaker.wait() for speaker in speakers] == [0, 0]
    assert sorted(lines) == ["a" * 60] * 200 + ["b" * 60] * 200


@pytest.fixture
def full():
    """A disk without room, behind a stream that Python buffers as it does by default."""
    with open("/dev/full", "w") as stream:
        yield stream
        let_go(stream)


def command(arguments, **streams):
    """Exit status of ``sida``, whose lines wait in Python's buffers."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-m", "workflow", *arguments], env=environment, check=False, **streams)


def test_a_training_succeeds_though_nobody_can_be_told(full, tmp_path):
    spec = as_json({**TEACHER, "total_kimg": 0.032})
    done = command(["train-teacher", "--spec", spec, "--out", str(tmp_path)], stdout=full, stderr=full)
    assert done.returncode == 0
    assert (tmp_path / "network.safetensors").exists()


def test_other_commands_say_that_their_result_is_lost_and_keep_their_status(full, tmp_path):
    done = command(["assets", "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: No space left on device")
    assert command(["info", str(tmp_path / "none")], stderr=full).returncode == 1


def test_the_rate_counts_what_this_process_did_and_lines_keep_their_distance(monkeypatch):
    moments = itertools.count(0, 4)
    monkeypatch.setattr(errors.time, "monotonic", lambda: float(next(moments)))
    monkeypatch.setattr(sys, "stderr", stream := Stream())
    watched = Progress("distill", 1000, done=200, interval=10)  # at 0 s
    watched.update(300)  # 4 s
    watched.update(400)  # 8 s
    watched.update(500, {"loss": 0.25})  # 12 s
    assert stream.writes == ["[distill]  500/1,000 img  50 %  25 img/s  20s left  loss 0.25\n"]


def test_durations_are_short():
    assert list(map(duration, (-1, 59.4, 59.6, 7620))) == ["0s", "59s", "1m00s", "2h07m"]
