"""AGENTS.md and llms.txt are what their generator writes, are short, and name commands that parse."""

import argparse
import re
import shlex

import pytest

from sida.config.lookup import ROOT, our_object
from sida.workflow.cli import all_verbs
from tests.plugins import needs
from tools.agents_page import FILES

PAGE = (ROOT / "AGENTS.md").read_text()
COMMANDS = re.findall(r"^ {4}(?:\w+=\w+ )?sida (.+)$", PAGE, flags=re.M)


# The page lists the verbs of plugins.
pytestmark = needs("exchange", "planner")


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_current_and_short(name):
    text = (ROOT / name).read_text()
    assert text == FILES[name](), f"{name}: run `python -m tools.agents_page`"
    assert len(text.splitlines()) <= 150


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    verb, *words = shlex.split(command)
    for word in words:
        # Files and folders that a command reads.
        if word.endswith("/"):
            (tmp_path / word).mkdir()
        elif re.search(r"\.(json|yaml|bib)$", word):
            (tmp_path / word).parent.mkdir(exist_ok=True)
            (tmp_path / word).touch()
    parser = argparse.ArgumentParser()
    our_object(all_verbs()[verb].object).arguments(parser)
    parser.parse_intermixed_args(words)


def test_commands_are_there():
    assert len(COMMANDS) >= 10
