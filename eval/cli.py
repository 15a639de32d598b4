"""The ``sida-eval`` command line; verbs live in :mod:`eval.commands` (see :mod:`sida.cli` for the convention)."""

from __future__ import annotations

from collections.abc import Sequence

from sida.cli import run_command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``sida-eval``; returns the exit status."""
    import eval.commands

    return run_command_line(
        "sida-eval", "Measure generators and build tables, figures and claims.", eval.commands, argv
    )
