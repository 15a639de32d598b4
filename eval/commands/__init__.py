"""The ``sida-eval`` command line: one module per verb (see :mod:`sida.cli.main` for what each provides)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sida.cli.main import run_command_line, verbs_of

ABOUT = "Measure generators and build tables, figures and claims."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb of measuring (:mod:`workflow.cli` has all of them); returns the exit status."""
    return run_command_line("sida-eval", ABOUT, verbs_of(sys.modules[__name__]), argv)
