"""The commands ``sida`` and ``sida-eval`` with all their verbs; those of each package alone run as ``python -m``."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path

import eval.commands
from sida.cli.main import ABOUT, SIDA_VERBS, run_command_line, verbs_of

# Named without importing them: a verb may import this module.
_NAMES = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / "commands")])]
_OURS = {name.replace("_", "-"): f"workflow.commands.{name}" for name in _NAMES}
_MEASURING = verbs_of(eval.commands) | {verb: _OURS[verb] for verb in ("completion", "power", "show", "table")}
#: Modules of all verbs, by program; ``sida`` has those of ``sida-eval``, too.
VERBS = {"sida": verbs_of(eval.commands) | SIDA_VERBS | _OURS, "sida-eval": _MEASURING}


def sida_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``sida``; returns the exit status."""
    return run_command_line("sida", ABOUT, VERBS["sida"], argv)


def eval_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``sida-eval``; returns the exit status."""
    return run_command_line("sida-eval", eval.commands.ABOUT, VERBS["sida-eval"], argv)
