"""The ``sida-eval`` command line: one module per verb (see :mod:`sida.cli` for what each provides)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sida.cli import run_command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``sida-eval``; returns the exit status."""
    about = "Measure generators and build tables, figures and claims."
    return run_command_line("sida-eval", about, sys.modules[__name__], argv)
