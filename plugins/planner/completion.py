"""``sida completion``: completion of verbs, options and files in a shell, by shtab."""

import argparse
from collections.abc import Mapping
from typing import Any

from sida.cli.main import Verb
from sida.config.lookup import our_object
from sida.workflow.cli import all_verbs


def _arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="shell")


def _run(args: argparse.Namespace) -> None:
    """Prints the script."""
    import shtab

    print(shtab.complete(_whole_parser(shtab.FILE), shell=args.shell))


def _whole_parser(files: Mapping[str, Any]) -> argparse.ArgumentParser:
    """One parser of the listed verbs; values without a list of choices are completed as names of files."""
    top = argparse.ArgumentParser(prog="sida")
    group = top.add_subparsers(metavar="COMMAND")
    for name, listed in all_verbs().items():
        if not listed.group:
            continue
        verb: Verb = our_object(listed.object)
        parser = group.add_parser(name, help=listed.help, description=listed.help)
        verb.arguments(parser)
        for action in parser._actions:
            if action.nargs != 0 and not action.choices:
                action.complete = files  # type: ignore[attr-defined]
    return top


COMPLETION = Verb(
    """examples:
  eval "$(sida completion bash)"                            (in ~/.bashrc)
  sida completion zsh > ~/.zfunc/_sida                      (in a folder of $fpath)
""",
    _arguments,
    _run,
)
