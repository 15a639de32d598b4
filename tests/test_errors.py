"""What a user sees of a command: arguments that cannot be, lines that no terminal obeys, streams that end, progress.

What cannot be is one line before anything is computed, and nothing is left behind.
"""

import errno
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from unittest.mock import Mock

import pytest

from sida import errors
from sida.cli import networks
from sida.cli.main import FAULTS, Verb, existing, run_command_line
from sida.config import lookup
from sida.errors import EXIT_RETRY, PassingError, Preempted, Progress, UserError, duration, one_line
from sida.workflow import cli
from tests.refused import command, refusal, refused
from tests.training.toy import TEACHER
from tests.workflow.workspace import put


def process(arguments, **streams):
    """Exit status of ``sida``, whose lines wait in Python's buffers."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-m", "sida.workflow", *arguments], env=environment, check=False, **streams)


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
    ("words", "lost"),
    [
        (["score", "x.npz", "--protocol", "digits", "--out", "./x.npz"], "x.npz"),
        (["score", "x.npz", "--protocol", "digits", "--latex", "x.npz"], "x.npz"),
        (["score", "y.npz", "--against", "x.npz", "--out", "x.npz"], "x.npz"),
        (["score", "y.npz", "--like", "main", "--out", "new", "--latex", "new"], "new"),
        (["score", "y.npz", "--protocol", "digits", "--reference", "train=x.json", "--out", "x.json"], "x.json"),
        (["table", "main", "--add", "y.npz", "--add", "x.csv", "--out", "x.tex"], "x.csv"),
        (["table", "main", "--runs", "x.csv", "--out", "x.tex"], "x.csv"),
        (["table", "main", "--bib", "new.tex", "--out", "new.md"], "new.tex"),
        (["table", "main", "--measurements", "x.csv", "--bib", "x.csv"], "x.csv"),
        (["sample", "--network", "x.npz", "--grid", "x.npz"], "x.npz"),
        (["sample", "--spec", '{"network": "x.npz", "grid": "x.npz"}'], "x.npz"),
        (["average", "y.npz", "x.npz", "--std", "0.1", "--out", "x.npz"], "x.npz"),
        (["collect", "new", "--stored", ".", "run", "--out", "measurements.csv"], "measurements.csv"),
        (["claims", "--claims", "y.npz", "--runs", "x.json", "--out", "x.md"], "x.json"),
        (["figure", "--layout", "samples", "--runs", "y.npz", "--results", ".", "--measurements", "x.csv",
          "--out", "x.pdf"], "x.csv"),
    ],
)  # fmt: skip
def test_no_output_is_written_over_an_input_or_another_output(words, lost, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x.npz", "x.json", "x.csv", "y.npz", "measurements.csv"):
        (tmp_path / name).write_text("kept")
    assert re.search(f"{lost}: .*lost; name another", refusal(command, *words))
    assert {file.read_text() for file in tmp_path.iterdir()} == {"kept"}


@pytest.mark.parametrize(
    ("verb", "arguments", "told"),
    [
        ("score", ["x", "--trials", "0"], "--trials: must be at least 1"),
        ("sample", ["--out", "o", "--seeds", str(2**64)], "seeds"),
        ("sample", ["--out", "o", "--seeds", "0-99999999999999"], "seeds"),
        ("sample", ["--out", "o", "--sampler", "heun:18,num_steps=20"], "num_steps: is given twice"),
        ("train-teacher", ["--spec", "name: x\n" * 99, "--out", "o"], "no such file"),
        ("average", ["x", "--std", "0.1", "--out=--"], "--out=--: '--'"),
        ("reference", ["--images", "x", "--extractor", "pixels", "--extractor", "inception", "--out", "o"],
         "--extractor: is given twice"),
        ("reference", ["--images", "x", "--images", ".", "--extractor", "pixels", "--out", "o"],
         "--images: is given twice"),
        # An option of a feature network that is not used.
        ("reference", ["--dataset", '{"name": "digits", "kind": "digits"}', "--extractor", "pixels",
                       "--out", "o.safetensors", "--extractor-option", "pixls.path=x"], "did you mean 'pixels'?"),
    ],
)  # fmt: skip
def test_values_that_cannot_be(verb, arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").touch()
    assert told in refusal(command, verb, *arguments)
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(("encoding", "no_colour"), [("ascii", ""), ("utf-8", ""), ("utf-8", "1")])
def test_tables_in_every_terminal(encoding, no_colour, monkeypatch):
    for name in ("TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", no_colour)
    screen = io.TextIOWrapper(io.BytesIO(), encoding, write_through=True)
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", screen)
    assert cli.main(["show", "demo"]) == 0
    shown = screen.buffer.getvalue().decode(encoding)
    assert ("\033" in shown) == ("* best" not in shown) == (not no_colour)
    assert ("±" in shown) == (encoding == "utf-8")


def test_a_closed_standard_output_is_no_fault(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["show", "demo"]) == 0


@pytest.mark.parametrize("command", [["assets", "list"], ["--help"]])
def test_a_reader_that_leaves_is_no_fault(command):
    # The pipe's other end is closed before anything is written.
    reading, writing = os.pipe()
    os.close(reading)
    done = process(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("run", "status", "told"),
    [
        (Mock(return_value=3), 3, ""),
        (Mock(side_effect=UserError("x", "no such file")), 1, "error: x: no such file"),
        (Mock(side_effect=Preempted), EXIT_RETRY, "preempted"),
        (Mock(side_effect=KeyboardInterrupt), 130, "interrupted"),
    ],
)
def test_a_reader_that_leaves_at_the_last_line_changes_no_status(monkeypatch, capsys, run, status, told):
    monkeypatch.setattr(networks, "INFO", Verb("", lambda parser: None, run))
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys.stdout, "flush", Mock(side_effect=BrokenPipeError))
    assert run_command_line("", cli.all_verbs, ["info"]) == status
    assert capsys.readouterr().err.startswith(told)


def test_a_fault_of_a_users_ends_a_job_once_and_other_ends_are_tried_again(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv(FAULTS, str(tmp_path / "faults"))
    fault = UserError("recipe: lr", "must be above 0", "correct it")
    run = Mock(side_effect=[PassingError("cache", "cannot be locked"), Preempted, OSError(errno.EIO, "x"), fault, 0])
    monkeypatch.setattr(networks, "INFO", Verb("", lambda parser: None, run))
    ends = [(run_command_line("", cli.all_verbs, ["info"]), capsys.readouterr().err) for _ in range(6)]
    assert [status for status, _ in ends] == [1, EXIT_RETRY, 1, 1, 1, 1]
    assert {line for _, line in ends[3:]} == {"error: recipe: lr: must be above 0; correct it\n"}
    assert run.call_count == 4
    # Another job, and the next run, whose start removes the folder.
    other = Mock(return_value=0)
    monkeypatch.setattr(networks, "CONVERT", Verb("", lambda parser: None, other))
    assert run_command_line("", cli.all_verbs, ["convert"]) == 0
    shutil.rmtree(tmp_path / "faults")
    assert run_command_line("", cli.all_verbs, ["info"]) == 0


# Lines


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_too_little_memory_is_one_line(monkeypatch, error):
    monkeypatch.setattr(networks, "INFO", Verb("", lambda parser: None, Mock(side_effect=error)))
    refused("more memory .*take less at once", command, "info")


def test_what_a_command_prints_controls_no_terminal(monkeypatch, capsys):
    text = "\x1b[1mbold\x1b[0m \x1b[2J \x9b31m \u202egnp \r größe\n"
    monkeypatch.setattr(networks, "INFO", Verb("", lambda parser: None, lambda args: print(text, end="")))
    assert run_command_line("", cli.all_verbs, ["info"]) == 0
    assert capsys.readouterr().out == "\x1b[1mbold\x1b[0m \\x1b[2J \\x9b31m \\u202egnp \\r größe\n"


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
        ("score mine.sample", "mine:sample"),
        ("score image.npz", "no such file or folder; check the path"),
        ("score sampels", "no such file .*did you mean 'samples/'"),
        ("score sampels/", "no such file or folder; did you mean 'samples/'"),
        ("score afhq64-sida2a-a1.2", "did you mean 'afhq64-sid2a-a1.2'"),
        ("new study --data picture.png", "give its pictures in a folder"),
        ("info pictures.png", r"did you mean 'picture.png'\?"),
        ("verify results", "check the path"),
        ("info mine:draw", "is a function, not a network; .*sida score mine:draw"),
    ],
)
def test_a_wrong_name_ends_before_heavy_imports(tmp_path, monkeypatch, words, remedy):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picture.png").touch()
    (tmp_path / "samples").mkdir()
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of torch fails
    *verb, name = words.split()
    line = str(refused(f"{name}.*{remedy}", command, *verb, name))
    assert len(line) < 160, "a list of all ids hides the remedy"


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("average circle --std 0.1 --out o.safetensors", ""),
        ("sample --vae circle --out o.npz", "--vae "),
        ("data encode --source circle --out b.zip", "--source "),
        ("data prepare --source circle --out b.zip", "--source "),
        ("verify circle", ""),
        ("info circle", ""),
    ],
)
def test_a_link_to_itself_is_one_line_with_its_path(tmp_path, monkeypatch, words, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "circle").symlink_to("circle")
    refused(f"^{place}circle: .*(symbolic links|no such file)", command, *words.split())
    assert [path.name for path in tmp_path.iterdir()] == ["circle"]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Symlink loop from '/a/b'"), OSError(errno.ELOOP, "Too many levels of symbolic links", "/a/b")],
    ids=["resolve", "open"],
)
def test_a_circle_of_links_that_is_met_later_is_one_line_with_its_path(monkeypatch, error):
    monkeypatch.setattr(networks, "INFO", Verb("", lambda parser: None, Mock(side_effect=error)))
    refused("^/a/b: .*symbolic links.*another place", command, "info")


def test_a_library_that_finds_no_memory_is_one_line_and_any_other_broken_one_is_not(monkeypatch):
    message = "libtorch_cpu.so: failed to map segment from shared object"
    monkeypatch.setattr(networks, "INFO", Verb("", lambda parser: None, Mock(side_effect=ImportError(message))))
    refused(f"more memory.*{message}.*take less", command, "info")
    broken = ImportError("cannot import name 'x' from 'numpy'")
    monkeypatch.setattr(networks, "INFO", Verb("", lambda parser: None, Mock(side_effect=broken)))
    with pytest.raises(ImportError, match="cannot import name"):
        command("info")


@pytest.mark.parametrize("words", [["verify", "."], ["plan", "demo"], ["new", "mine", "--data", os.sep]])
def test_a_current_folder_that_was_removed_is_one_line(tmp_path, monkeypatch, capsys, words):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "`cd`" in line


@pytest.mark.parametrize("name", ["circle", "x" * 5000], ids=["circle", "too long"])
def test_a_path_that_cannot_be_followed_is_refused_where_it_is_parsed(tmp_path, name):
    (tmp_path / "circle").symlink_to("circle")
    path = str(tmp_path / name)
    assert refused("cannot be read.*check the path", existing("--source"), path).where == f"--source {path}"


def test_a_missing_package_has_a_remedy_that_works_where_it_is_read(monkeypatch):
    assert lookup.how_to_install("diffusers>=0.27") == "make setup"
    monkeypatch.setattr(lookup, "CHECKOUT", False)
    assert lookup.how_to_install("diffusers>=0.27") == "pip install 'diffusers>=0.27'"


#: Several of these share a pipe; Python does not buffer in them, as under the Makefile.
SPEAKER = "import sys; from sida.errors import say\nfor k in range(200): say(sys.argv[1] * 60)"


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
    """A disk without room."""
    with open("/dev/full", "w") as stream:
        yield stream


@pytest.mark.slow
def test_a_training_succeeds_though_nobody_can_be_told(full, tmp_path):
    spec = json.dumps({**TEACHER, "total_kimg": 0.032})
    done = process(["train-teacher", "--spec", spec, "--out", str(tmp_path)], stdout=full, stderr=full)
    assert done.returncode == 0
    assert (tmp_path / "network.safetensors").exists()


def test_other_commands_say_that_their_result_is_lost_and_keep_their_status(full, tmp_path):
    done = process(["assets", "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: No space left on device")
    assert process(["info", str(tmp_path / "none")], stderr=full).returncode == 1


def test_the_rate_counts_what_this_process_did_and_lines_keep_their_distance(monkeypatch, capsys):
    monkeypatch.setattr(errors.time, "monotonic", itertools.count(0, 4).__next__)
    watched = Progress("distill", 1000, done=200, interval=10)  # at 0 s
    watched.update(300)  # 4 s
    watched.update(400)  # 8 s
    watched.update(500, {"loss": 0.25})  # 12 s
    assert capsys.readouterr().err == "[distill]  500/1,000 img  50 %  25 img/s  20s left  loss 0.25\n"
    watched.update(700)  # 16 s
    watched.update(None, {"fd": 3.5}, force=True)  # 20 s: facts of something that ended earlier
    assert capsys.readouterr().err == "[distill]  700/1,000 img  70 %  25 img/s  12s left  fd 3.5\n"


def test_durations_are_short():
    assert list(map(duration, (-1, 59.4, 59.6, 7620))) == ["0s", "59s", "1m00s", "2h07m"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("settings INIT_SIGMA", "did you mean 'init_sigma'"),
        ("info NET.safetensors", "did you mean 'net.safetensors'"),
        ("run ./nowhere/ -n", "preset ./nowhere/: no such file or folder; .*sida presets"),
        ("show .", r"preset \.: is a folder without preset\.yaml; .*sida presets"),
        ("export row.json --to eee out --origin me", "preset row.json: no such file or folder"),
        ("info somebody/ddpm-flowers", "no such file or folder; .*hf://somebody/ddpm-flowers"),
        ("train-teacher --spec spec.txt --out out", "spec.txt.*name: is missing"),
    ],
)
def test_words_that_almost_name_something_are_told_what_is_near(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "net.safetensors")
    put(tmp_path / "spec.txt", "lr: fast  # with a remark\n")
    refused(told, command, *arguments.split())
