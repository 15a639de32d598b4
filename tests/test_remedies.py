"""Commands in messages: every one that a source names is a verb with these options and choices."""

import argparse
import ast
import re
import shlex
from collections.abc import Iterator

import pytest

from sida.config.lookup import ROOT, our_object
from sida.workflow.cli import all_verbs

#: A command in backticks or brackets, up to two spaces or an ellipsis, after which a sentence or a comment follows.
_COMMAND = re.compile(r"`(sida [^`]+)`|\((sida [^()]+)\)|^  (sida .*?)(?:  |\s+\(|\s+\\\\|$)", re.MULTILINE)
#: An option that a message tells the user to give or to leave out.
_OPTION = re.compile(r"(?:\b(?:say|give|add|without|with|name|leave|out) |\()(--[a-z][a-z0-9-]+)")


@pytest.fixture(scope="module")
def texts() -> list[tuple[str, str]]:
    """Places and texts of all strings of the sources."""
    return [*strings()]


def strings() -> Iterator[tuple[str, str]]:
    """Place and text of each string of the sources that is not a docstring; values of an f-string are ``X``."""
    for package in ("sida", "eval", "workflow"):
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
            inner |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", "".join(map(str, parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A verb's parser, and those of its actions by their names."""
    yield "", parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


@pytest.fixture(scope="module")
def options() -> dict[str, dict[str, argparse.Action]]:
    """Options by verb, or by verb and action."""
    options_of = {}
    for verb, listed in all_verbs().items():
        parser = argparse.ArgumentParser()
        our_object(listed.object).arguments(parser)
        for action, part in parsers(parser):
            options_of[f"{verb} {action}".strip()] = part._option_string_actions
    return options_of


def test_every_command_in_a_message_is_one(options, texts):
    commands = [(where, max(found)) for where, text in texts for found in _COMMAND.findall(text)]
    assert len(commands) > 100
    faults = []
    for where, command in commands:
        words = shlex.split(re.sub(r"\.\.\.|['\\]", " ", command))[1:]
        words = words[: words.index("--")] if "--" in words else words
        verb = next((name for name in (" ".join(words[:2]), words[0]) if name in options), None)
        if verb is None:
            if words[0] not in ("X", "COMMAND", "--help"):
                faults.append(f"{where}: no such verb: {command}")
            continue
        for number, word in enumerate(words):
            name, equals, value = word.partition("=")
            if not name.startswith("--") or name in ("--X", "--"):
                continue
            if (action := options[verb].get(name)) is None:
                faults.append(f"{where}: {verb} has no {name}: {command}")
            elif action.choices and action.nargs != 0:
                value = value if equals else (words[number + 1 :] or ["X"])[0]
                if value not in (*action.choices, "X") and not value.isupper():
                    faults.append(f"{where}: {verb} {name} takes no {value}: {command}")
    assert not faults, "\n".join(faults)


def test_every_option_in_a_message_exists(options, texts):
    others = {"--sparse", "--retries", "--sdm"}  # of tar, of Snakemake
    known = {name for names in options.values() for name in names} | others
    faults = {(where, name) for where, text in texts for name in _OPTION.findall(text) if name not in known}
    assert not faults, "\n".join(map(str, sorted(faults)))
