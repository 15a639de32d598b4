"""The command ``sida``: verbs by the user they serve, verbs of jobs, and the terminal to which verbs print."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence

import sida.eval  # noqa: F401 - registers what trainings of sida need
from sida.cli.main import run_command_line
from sida.config.registries import ListedVerb, entries

ABOUT = "Train, measure and audit one-step generators distilled from diffusion models."


def all_verbs() -> Mapping[str, ListedVerb]:
    """Every verb by name, of the core and of plugins; each object is a :class:`sida.cli.main.Verb`.

    Raises:
        UserError: The file of a plugin has a fault.
    """
    return entries("verbs")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``sida``; returns the exit status."""
    return run_command_line(ABOUT, all_verbs, argv)


def terminal_colour() -> bool:
    """Whether standard output is a terminal with colours (``NO_COLOR`` and ``TERM=dumb`` are not set)."""
    allows_colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return allows_colour and sys.stdout is not None and sys.stdout.isatty()


def terminal_width() -> int:
    """Columns of standard output: the terminal's, but 40 to 100, or 100 without a terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return 100
    return max(40, min(100, shutil.get_terminal_size((100, 24)).columns))
