"""The command ``sida``: verbs by the user they serve, verbs of jobs, and the terminal to which verbs print."""

import os
import shutil
import sys
from collections.abc import Sequence

import sida.eval  # noqa: F401 - registers what trainings of sida need
from sida.cli.main import run_command_line
from sida.config.registries import ListedVerb, added_verbs

ABOUT = "Train, measure and audit one-step generators distilled from diffusion models."
#: Verbs of the core, in the order of the help; each object is a :class:`sida.cli.main.Verb`.
VERBS = {
    "score": ListedVerb(
        object="sida.eval.commands.scores:SCORE",
        group="score a generator",
        help="Score the images of any generator under a protocol: files, a network, or a Python function.",
    ),
    "table": ListedVerb(
        object="sida.eval.commands.scores:TABLE",
        group="score a generator",
        help="Build a table: .tex (booktabs), .csv, .md and .html.",
    ),
    "reference": ListedVerb(
        object="sida.eval.commands.scores:REFERENCE",
        group="score a generator",
        help="Measure a data set or real images once, as the reference of later measurements.",
    ),
    "data": ListedVerb(
        object="sida.cli.data:DATA",
        group="own pictures",
        help="Prepare data sets in the EDM zip format, check them, or encode them into latents.",
    ),
    "presets": ListedVerb(
        object="sida.workflow.commands.presets:PRESETS",
        group="papers and studies",
        help="List the presets that `sida run` can run: content and device of each.",
    ),
    "settings": ListedVerb(
        object="sida.workflow.commands.settings:SETTINGS",
        group="papers and studies",
        help="Look up a key of a preset, sheet, recipe or protocol: type, range, default and meaning.",
    ),
    "run": ListedVerb(
        object="sida.workflow.commands.run:RUN",
        group="papers and studies",
        help="Run a preset or a study: check its files, start Snakemake.",
    ),
    "show": ListedVerb(
        object="sida.workflow.commands.archive:SHOW",
        group="papers and studies",
        help="Print a preset's first table, and where its report, figures and LaTeX are.",
    ),
    "check": ListedVerb(
        object="sida.workflow.commands.check:CHECK",
        group="papers and studies",
        help="Measure a row of stored results again, and say whether its numbers agree.",
    ),
    "verify": ListedVerb(
        object="sida.workflow.commands.archive:VERIFY",
        group="papers and studies",
        help="Check a results folder: hashes, parents, measurements; tables, figures and verdicts made again.",
    ),
    "train-teacher": ListedVerb(
        object="sida.cli.train:TRAIN_TEACHER",
        group="training",
        help="Train a diffusion teacher (EDM, EDM2 or a custom network).",
    ),
    "distill": ListedVerb(
        object="sida.cli.train:DISTILL",
        group="training",
        help="Distil a teacher into a one-step generator by SiD, SiDA, SiD²A, GDD or a method of a plugin.",
    ),
    "sample": ListedVerb(
        object="sida.cli.networks:SAMPLE",
        group="training",
        help="Draw images from a generator or teacher, one per seed; resumes after an interruption.",
    ),
    "average": ListedVerb(
        object="sida.cli.networks:AVERAGE",
        group="training",
        help="Compute a further average of a teacher's weights from stored averages (EDM2's post-hoc EMA).",
    ),
    "assets": ListedVerb(
        object="sida.workflow.commands.assets:ASSETS",
        group="files",
        help="Fetch, verify, forget, list or describe the published networks, references and extractors.",
    ),
    "convert": ListedVerb(
        object="sida.cli.networks:CONVERT",
        group="files",
        help="Convert a published pickle, a pipeline of diffusers or a state dict to safetensors; executes nothing.",
    ),
    "info": ListedVerb(
        object="sida.cli.networks:INFO",
        group="files",
        help="Show a network file: architecture, parameters, origin, method, recorded hashes.",
    ),
    "measure": ListedVerb(
        object="sida.eval.commands.jobs:MEASURE",
        group="",
        help="Measure a generator: ten trials with fresh seeds, one JSON file each.",
    ),
    "collect": ListedVerb(
        object="sida.eval.commands.jobs:COLLECT",
        group="",
        help="Check all measurements of a folder and collect them as one long table (CSV).",
    ),
    "claims": ListedVerb(
        object="sida.eval.commands.jobs:CLAIMS",
        group="",
        help="Decide claims by rule: supported, contradicted or not decided here, with the evidence.",
    ),
    "figure": ListedVerb(
        object="sida.eval.commands.jobs:FIGURE",
        group="",
        help="Build a figure: vector .pdf with embedded fonts, .png and the data as .csv.",
    ),
    "page": ListedVerb(
        object="sida.eval.commands.jobs:PAGE",
        group="",
        help="Collect all tables, figures and verdicts of a preset on one HTML page that stands alone.",
    ),
    "paper": ListedVerb(
        object="sida.eval.commands.jobs:PAPER",
        group="",
        help="Collect all tables and figures of a preset in paper.tex and, where LaTeX is installed, paper.pdf.",
    ),
    "manifest": ListedVerb(
        object="sida.workflow.commands.archive:MANIFEST",
        group="",
        help="Record every artefact of a results folder with its sha256, versions and machine.",
    ),
}


def all_verbs() -> dict[str, ListedVerb]:
    """Every verb by name, of the core and of plugins.

    Raises:
        UserError: The file of a plugin has a fault.
    """
    return VERBS | added_verbs(VERBS)


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
