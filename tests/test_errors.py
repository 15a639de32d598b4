"""The one line of an error: whatever a file's names hold, a terminal obeys none of it."""

import sys

import pytest

from sida.config import resources
from sida.errors import UserError, one_line
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
        (["new", "study", "--data", "picture.png"], "name the folder"),
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
