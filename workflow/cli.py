"""The commands ``sida`` and ``sida-eval`` with all their verbs; those of each package alone run as ``python -m``."""

from __future__ import annotations

from collections.abc import Sequence

import eval.commands
import sida.cli.commands
from sida.cli.main import ABOUT, run_command_line, verbs_of

_OURS = (
    "assets",
    "check",
    "completion",
    "crate",
    "doctor",
    "export",
    "new",
    "plan",
    "presets",
    "rates",
    "run",
    "tune",
    "verify",
)
_OURS_IN_EVAL = ("completion", "docs", "power", "show", "table")
_MEASURING = verbs_of(eval.commands) | {verb: f"workflow.commands.{verb}" for verb in _OURS_IN_EVAL}
#: Modules of all verbs, by program; ``sida`` has those of ``sida-eval``, too.
VERBS = {
    "sida": _MEASURING | verbs_of(sida.cli.commands) | {verb: f"workflow.commands.{verb}" for verb in _OURS},
    "sida-eval": _MEASURING,
}


def sida_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``sida``; returns the exit status."""
    return run_command_line("sida", ABOUT, VERBS["sida"], argv)


def eval_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``sida-eval``; returns the exit status."""
    return run_command_line("sida-eval", eval.commands.ABOUT, VERBS["sida-eval"], argv)
