"""The commands ``sida`` and ``sida-eval`` with all their verbs; those of each package alone run as ``python -m``."""

from __future__ import annotations

from collections.abc import Sequence

import eval.commands
import sida.cli.commands
from sida.cli.main import ABOUT, run_command_line, verbs_of

#: Modules of all verbs, by program.
VERBS = {
    "sida": {
        **verbs_of(sida.cli.commands),
        "completion": "workflow.commands.completion",
        "crate": "workflow.commands.crate",
        "doctor": "workflow.commands.doctor",
        "export": "workflow.commands.export",
        "new": "workflow.commands.new",
        "plan": "workflow.commands.plan",
        "presets": "workflow.commands.presets",
        "rates": "workflow.commands.rates",
        "verify": "workflow.commands.verify",
    },
    "sida-eval": {
        **verbs_of(eval.commands),
        "completion": "workflow.commands.completion",
        "docs": "workflow.commands.docs",
        "power": "workflow.commands.power",
        "table": "workflow.commands.table",
    },
}


def sida_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``sida``; returns the exit status."""
    return run_command_line("sida", ABOUT, VERBS["sida"], argv)


def eval_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``sida-eval``; returns the exit status."""
    return run_command_line("sida-eval", eval.commands.ABOUT, VERBS["sida-eval"], argv)
