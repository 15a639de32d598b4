"""The command ``sida``: verbs by the user they serve, verbs of jobs, and what replaces removed ones."""

from __future__ import annotations

from collections.abc import Sequence

from sida.cli.main import SIDA_VERBS, run_command_line

ABOUT = "Train, measure and audit one-step generators distilled from diffusion models."
#: Verbs that the help lists, in groups, each a :class:`sida.cli.main.Verb` named ``module:object``.
GROUPS = {
    "score a generator": {
        "score": "eval.commands.scores:SCORE",
        "table": "workflow.commands.tables:TABLE",
        "cite": "workflow.commands.tables:CITE",
        "compare": "eval.commands.scores:COMPARE",
        "reference": "eval.commands.references:REFERENCE",
    },
    "own pictures": {
        "data": SIDA_VERBS["data"],
        "new": "workflow.commands.new:NEW",
    },
    "papers and studies": {
        "presets": "workflow.commands.planning:PRESETS",
        "plan": "workflow.commands.planning:PLAN",
        "doctor": "workflow.commands.planning:DOCTOR",
        "run": "workflow.commands.run:RUN",
        "show": "workflow.commands.archive:SHOW",
        "check": "workflow.commands.check:CHECK",
        "verify": "workflow.commands.archive:VERIFY",
    },
    "training": {
        "train-teacher": SIDA_VERBS["train-teacher"],
        "distill": SIDA_VERBS["distill"],
        "sample": SIDA_VERBS["sample"],
        "average": SIDA_VERBS["average"],
    },
    "files": {
        "assets": "workflow.commands.assets:ASSETS",
        "convert": SIDA_VERBS["convert"],
        "info": SIDA_VERBS["info"],
        "export": "workflow.commands.archive:EXPORT",
    },
}
_STEPS = ("measure", "collect", "claims", "figure", "page", "paper")
#: Verbs of the workflow's jobs, which the help leaves out.
JOBS = {
    **{name: f"eval.commands.jobs:{name.upper()}" for name in _STEPS},
    "manifest": SIDA_VERBS["manifest"],
}
VERBS = {**{verb: place for group in GROUPS.values() for verb, place in group.items()}, **JOBS}
#: What replaces a verb, or an option of a verb, that the version before had.
REMOVED = {
    "analyse": "facts of a row belong to its study's code",
    "board": "collect rows with `sida table TABLE --add FILE`",
    "completion": "the list of verbs is `sida --help`",
    "crate": "pack the results folder; `sida verify` checks it",
    "docs": "pages are plain text now",
    "experiment": "claims.yaml holds claims alone",
    "power": "docs/digits.md has the scatter of retraining",
    "rates": "train.jsonl has the speed and memory of each training",
    "train-backbone": "run `python tools/train_backbone.py` in a checkout",
    "train-digits": "run `python tools/train_digits.py` in a checkout",
    "tune": "make each trial a row of a sheet: `sida run STUDY --extend TRIALS.tsv`",
    "variants": "score the images once with each protocol",
    "score --images": "give the path as SOURCE: `sida score PATH`",
    "score --network": "give the network as SOURCE: `sida score NETWORK`",
    "score --function": "give the function as SOURCE: `sida score MODULE:NAME`",
    "score --table": "use --like TABLE",
    "table --layout": "give the layout first: `sida table TABLE`",
    "table --config": "use --preset PRESET",
    "plan --measure": "train.jsonl of a run has its rate; config/plan.yaml holds rates",
    "plan --preset": "give the preset first: `sida plan PRESET [TARGET ...]`",
    "plan --config": "give the preset first: `sida plan PRESET [TARGET ...]`",
    "doctor --preset": "give the preset first: `sida doctor PRESET [TARGET ...]`",
    "doctor --config": "give the preset first: `sida doctor PRESET [TARGET ...]`",
    "show --preset-dir": "give the preset first: `sida show PRESET`",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``sida``; returns the exit status."""
    return run_command_line(ABOUT, VERBS, argv, GROUPS, REMOVED)
