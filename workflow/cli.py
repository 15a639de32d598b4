"""The command ``sida``: verbs by the user they serve, verbs of jobs, and the terminal to which verbs print."""

import os
import shutil
import sys
from collections.abc import Sequence

import eval  # noqa: F401 - registers what trainings of sida need
from sida.cli.main import run_command_line
from sida.config.registries import added_verbs

ABOUT = "Train, measure and audit one-step generators distilled from diffusion models."
#: Verbs of the core that the help lists, in groups, each a :class:`sida.cli.main.Verb` named ``module:object``.
_GROUPS = {
    "score a generator": {
        "score": "eval.commands.scores:SCORE",
        "table": "eval.commands.scores:TABLE",
        "reference": "eval.commands.scores:REFERENCE",
    },
    "own pictures": {
        "data": "sida.cli.data:DATA",
    },
    "papers and studies": {
        "presets": "workflow.commands.presets:PRESETS",
        "settings": "workflow.commands.settings:SETTINGS",
        "run": "workflow.commands.run:RUN",
        "show": "workflow.commands.archive:SHOW",
        "check": "workflow.commands.check:CHECK",
        "verify": "workflow.commands.archive:VERIFY",
    },
    "training": {
        "train-teacher": "sida.cli.train:TRAIN_TEACHER",
        "distill": "sida.cli.train:DISTILL",
        "sample": "sida.cli.networks:SAMPLE",
        "average": "sida.cli.networks:AVERAGE",
    },
    "files": {
        "assets": "workflow.commands.assets:ASSETS",
        "convert": "sida.cli.networks:CONVERT",
        "info": "sida.cli.networks:INFO",
    },
}
_STEPS = ("measure", "collect", "claims", "figure", "page", "paper")
#: Verbs of the workflow's jobs, which the help leaves out.
JOBS = {
    **{name: f"eval.commands.jobs:{name.upper()}" for name in _STEPS},
    "manifest": "workflow.commands.archive:MANIFEST",
}


def groups() -> dict[str, dict[str, str]]:
    """Verbs that the help lists, of the core and of plugins, by group.

    Raises:
        UserError: The file of a plugin has a fault.
    """
    core = {verb for group in (*_GROUPS.values(), JOBS) for verb in group}
    listed = {heading: {**verbs} for heading, verbs in _GROUPS.items()}
    for name, verb in added_verbs(core).items():
        listed.setdefault(verb.group, {})[name] = verb.object
    return listed


def all_verbs() -> dict[str, str]:
    """Every verb, those of jobs included."""
    return {verb: place for group in (*groups().values(), JOBS) for verb, place in group.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``sida``; returns the exit status."""
    return run_command_line(ABOUT, groups, JOBS, argv)


def terminal_colour() -> bool:
    """Whether standard output is a terminal with colours (``NO_COLOR`` and ``TERM=dumb`` are not set)."""
    allows_colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return allows_colour and sys.stdout is not None and sys.stdout.isatty()


def terminal_width() -> int:
    """Columns of standard output: the terminal's, but 40 to 100, or 100 without a terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return 100
    return max(40, min(100, shutil.get_terminal_size((100, 24)).columns))
