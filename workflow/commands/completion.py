"""``sida completion`` and ``sida-eval completion``: a script that completes commands, options and files in a shell."""

from __future__ import annotations

import argparse

HELP = "Print a script that completes this program's commands and options in bash, zsh or tcsh."
EXAMPLES = """examples:
  sida completion bash > ~/.local/share/bash-completion/completions/sida
  sida-eval completion bash > ~/.local/share/bash-completion/completions/sida-eval
  sida completion zsh > ~/.zfunc/_sida                  (with fpath+=~/.zfunc before compinit in ~/.zshrc)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    parser.set_defaults(program=parser.prog.split()[0])


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    from sida.cli.main import command_parser
    from sida.config.resources import how_to_install
    from sida.errors import UserError
    from workflow.cli import VERBS

    try:
        import shtab
    except ImportError:
        remedy = how_to_install("shtab>=1.7", target="extras")
        raise UserError(f"completion: the package shtab is not installed; {remedy}") from None
    print(shtab.complete(command_parser(args.program, "", VERBS[args.program]), args.shell))
    return 0
